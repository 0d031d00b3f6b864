"""The masks of a batch's trees in one numbering, so that equal ones of different trees are the same."""

import numpy as np

from trieline.common.arrays import Int32
from trieline.wire.tree import TrajectoryTree


class MaskTable:
    """Grows with the trees that it is shown."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self.runs: list[Int32] = []
        """Of each mask (see `trieline.wire.token_masks`)."""

    def index(self, tree: TrajectoryTree) -> Int32 | None:
        """[T] the mask in this table under which each token was sampled, -1: none. None: no token had one."""
        if not tree.num_masks:
            return None
        numbers = [self._number(tree.mask(m)) for m in range(tree.num_masks)]
        # The last one stands for index -1.
        return np.array([*numbers, -1], np.int32)[tree.mask_index]

    def _number(self, runs: Int32) -> int:
        number = self._numbers.setdefault(runs.tobytes(), len(self.runs))
        if number == len(self.runs):
            self.runs.append(runs)
        return number
