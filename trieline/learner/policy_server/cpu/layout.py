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
    def _masks(self) -> dict[int, Tensor | None]:
        return {}

    def mask(self, window: int) -> Tensor | None:
        """bool [stop - start, stop], or None where plain causal attention is right. `window` 0: none.

        All layers of a step that ask get the same one.
        """
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int) -> Tensor | None:
        hides = 0 < window < self.stop
        if self.start == 0 and not hides:
            return None
        causal = torch.ones(self.stop - self.start, self.stop, dtype=torch.bool).tril_(self.start)
        return causal.triu_(self.start - window + 1) if hides else causal


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """First one token for each of M rows (the singles), then the tokens of the chunks."""

    singles_M4: npt.NDArray[np.int64]
    """What each single sees: a trunk and how many of its tokens, its row and how many of the tokens there."""
    chunks: tuple[Chunk, ...]
