"""Slots for the keys and values of single tokens, and who holds each.

A slot is held by every running request that sees its token and by the prefix cache; it is free when nobody
holds it. What several hold is stored once and never copied.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int32]

SCRATCH = 0
"""Never given away: what has no place of its own is written there."""


class SlotPool:
    """`num_slots` slots beside the scratch one."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._holders = np.zeros(num_slots + 1, np.int32)
        self._free = np.arange(num_slots, 0, -1, dtype=np.int32)
        self._num_free = num_slots

    @property
    def num_free(self) -> int:
        return self._num_free

    def take(self, count: int) -> Slots | None:
        """So many free slots, held once each; None: there are not as many."""
        if count > self._num_free:
            return None
        self._num_free -= count
        slots = self._free[self._num_free : self._num_free + count][::-1].copy()
        self._holders[slots] = 1
        return slots

    def hold(self, slots: Slots) -> None:
        """One more holds these, which are held already; each is there once."""
        assert (self._holders[slots] > 0).all(), "a free slot has nothing to share"
        self._holders[slots] += 1

    def release(self, slots: Slots) -> None:
        """One less holds these; each is there once."""
        self._holders[slots] -= 1
        left = slots[self._holders[slots] == 0]
        self._free[self._num_free : self._num_free + len(left)] = left
        self._num_free += len(left)


@dataclass(frozen=True, slots=True)
class SlotRun:
    """The slots of consecutive tokens, held: a `Run` of the prefix cache."""

    slots: Slots
    pool: SlotPool

    def __len__(self) -> int:
        return len(self.slots)

    def view(self, start: int, stop: int) -> "SlotRun":
        """A part."""
        return SlotRun(self.slots[start:stop], self.pool)

    def copy(self, start: int, stop: int) -> "SlotRun":
        """A part that lives by itself."""
        return SlotRun(self.slots[start:stop].copy(), self.pool)

    def free(self) -> None:
        """Release the slots."""
        self.pool.release(self.slots)
