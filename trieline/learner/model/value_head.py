"""The value of a state (a prefix), linear in the hidden state of its last token."""

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s) = w . h(s) + b. Starts at 0, so that it disturbs nothing before it has learned something.

    Kept in at least float32 beside a model of lower precision: values are regressed, not only compared.
    """

    def __init__(self, hidden_size: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.linear = nn.Linear(hidden_size, 1, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values [N] from hidden states [N, D]."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype))
        return values.squeeze(-1)
