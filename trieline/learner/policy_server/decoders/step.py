"""The tokens of one forward, side by side."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """T tokens of any number of sequences, unpadded, where the model computes."""

    token_ids: Tensor
    """int64 [T]"""
    positions: Tensor
    """int64 [T] places in the sequences."""
    sample_at: Tensor
    """int64 [S] tokens of the step after which the next token is sampled."""
