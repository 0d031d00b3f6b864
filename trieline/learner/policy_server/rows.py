"""Which request has which row: the running requests and the cache that they share.

Free rows are filled from below and the cache is only as long as its longest request needs, since every
decoding step reads all rows up to the last busy one.
"""

from collections.abc import Iterator

from trieline.learner.policy_server.kv_rows import KVRows
from trieline.learner.policy_server.sequence import Sequence

SMALLEST_CAPACITY = 128


class Rows:
    """At most `max_rows` rows, and at most `kv_tokens` tokens in all of them."""

    def __init__(self, kv: KVRows, *, max_rows: int, max_context: int, kv_tokens: int) -> None:
        self.kv = kv
        self._max_rows, self._max_context, self._kv_tokens = max_rows, max_context, kv_tokens
        self._by_row: list[Sequence | None] = []

    def __iter__(self) -> Iterator[Sequence]:
        """The running requests by row."""
        return (sequence for sequence in self._by_row if sequence is not None)

    def __len__(self) -> int:
        return sum(sequence is not None for sequence in self._by_row)

    def place(self, sequence: Sequence) -> bool:
        """Give the sequence a row; False if there is none of the length it needs now."""
        longest = max([sequence.need, *(running.need for running in self)])
        capacity = min(max(SMALLEST_CAPACITY, 1 << (longest - 1).bit_length()), self._max_context)
        if len(self) >= self._rows_of(capacity):
            return False
        if capacity > self.kv.capacity or None not in self._by_row:
            self._resize(capacity)
        sequence.row = self._by_row.index(None)
        self._by_row[sequence.row] = sequence
        return True

    def remove(self, sequence: Sequence) -> None:
        """The sequence has left; its row is free."""
        self._by_row[sequence.row] = None
        sequence.row = -1

    def close_gaps(self) -> None:
        """Move the last rows into free ones when reading the gaps costs more than a few copies."""
        busy = len(self)
        span = max((sequence.row for sequence in self), default=-1) + 1
        if span - busy <= max(2, busy // 8):
            return
        gaps = (row for row in range(busy) if self._by_row[row] is None)
        for sequence in [sequence for sequence in self if sequence.row >= busy]:
            gap = next(gaps)
            self.kv.move(sequence.row, gap, sequence.filled)
            self._by_row[sequence.row], self._by_row[gap] = None, sequence
            sequence.row = gap

    def clear(self) -> None:
        """Drop all requests and the memory."""
        self._by_row = []
        self.kv.resize(rows=0, capacity=0, keep=[])

    def _rows_of(self, capacity: int) -> int:
        return min(self._max_rows, self._kv_tokens // capacity)

    def _resize(self, capacity: int) -> None:
        running = list(self)
        rows = self._rows_of(capacity)
        self.kv.resize(rows=rows, capacity=capacity, keep=[(one.row, one.filled) for one in running])
        self._by_row = [*running, *[None] * (rows - len(running))]
        for row, sequence in enumerate(running):
            sequence.row = row
