"""Whose the tokens of a step are, and what each of them sees."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A run of one row's tokens, positions `start` to `stop`, that is read in one go."""

    row: int
    start: int
    stop: int
    trunk: int = -1
    """The trunk that holds the positions below `base`; -1: none."""
    base: int = 0

    @functools.cached_property
    def mask(self) -> Tensor | None:
        """bool [stop - start, stop], or None where plain causal attention is right."""
        if self.start == 0:
            return None
        return torch.ones(self.stop - self.start, self.stop, dtype=torch.bool).tril_(self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """First one token for each of M rows (the singles), then the tokens of the chunks."""

    singles_M4: npt.NDArray[np.int64]
    """What each single sees: a trunk and how many of its tokens, its row and how many of the tokens there."""
    chunks: tuple[Chunk, ...]
