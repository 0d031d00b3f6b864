"""Which tokens each of R rows of logits may take, as runs of token ids: far shorter than a flag for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Runs = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowMasks:
    """The masks of R rows."""

    index: npt.NDArray[np.int64]
    """[R] which of `runs` is the mask of a row; -1: it may take any token."""
    runs: Sequence[Runs]
    """Of each mask [2 K]: the first token id of each run that it allows, and the one after its last."""

    def forbidden(self, first: int, stop: int, vocab_size: int, device: torch.device) -> Tensor | None:
        """bool [stop - first, vocab_size] of some of the rows; None if each of them may take any token."""
        index = self.index[first:stop]
        if (index < 0).all():
            return None
        flags = np.zeros((len(index), vocab_size), np.bool_)
        for row in np.flatnonzero(index >= 0).tolist():
            lengths = np.diff(self.runs[index[row]], prepend=0, append=vocab_size)
            flags[row] = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
        return torch.from_numpy(flags).to(device)
