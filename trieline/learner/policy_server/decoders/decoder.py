"""A model as the engine sees it: one forward over a packed step, and weights that can change in between."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from trieline.learner.keeping.weight_file import ExpectedWeights
from trieline.learner.model_folder.adapter_weights import LowRank
from trieline.learner.policy_server.decoders.kv_shape import KVShape
from trieline.learner.policy_server.decoders.step import Step

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Of a layer: its number, queries [T, Q, D], keys and values [T, H, D] of the step's tokens, and the scale of
the scores. Stores the keys and values, and gives [T, Q, D]: each token looks at all of its sequence, or in
layers with a window (`KVShape.windows`) at the end of it."""


class Decoder(Protocol):
    """What the engine needs of a model."""

    kv_shape: KVShape
    dtype: torch.dtype
    device: torch.device
    vocab_size: int
    max_positions: int
    """Longest sequence that the model was made for."""
    weights: ExpectedWeights
    """What `load` takes."""

    def forward(self, step: Step, attend: Attend) -> Tensor:
        """Logits [S, V] in the compute precision, after the tokens of `step.sample_at`."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over these weights (named as in the Hugging Face state dict, checked before).

        On a GPU into the memory of the old ones, which a CUDA graph knows.
        """
        ...

    def adapt(self, adapters: Mapping[str, LowRank]) -> bool:
        """Compute with these beside the weights of their names, and with no others; checked before.

        Returns whether a forward does something else from now on than with other numbers what it did.
        """
        ...
