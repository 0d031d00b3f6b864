"""Which request has which row and which trunk.

Free rows are filled from below and the store is only as long as its longest request needs, since every
decoding step reads all rows up to the last busy one.
"""

import functools
from collections.abc import Iterator

import torch

from trieline.common.prefix import common_prefix
from trieline.learner.policy_server.batching.prefix_cache import PrefixCache, Tokens
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.cpu.kv_cache import KVCache
from trieline.learner.policy_server.cpu.kv_store import KVRun, capacity_for
from trieline.learner.policy_server.cpu.trunks import SHORTEST_TRUNK, Trunk, Trunks, put_runs


class Rows:
    """At most `max_rows` rows, and at most `kv_tokens` tokens in all of them (and as many in the trunks)."""

    def __init__(
        self, cache: KVCache, *, max_rows: int, max_context: int, kv_tokens: int, prefix_tokens: int
    ) -> None:
        self.cache = cache
        self.prefixes: PrefixCache[KVRun] = PrefixCache(prefix_tokens)
        self._store = cache.rows
        self._max_rows, self._max_context, self._kv_tokens = max_rows, max_context, kv_tokens
        self._by_row: list[Sequence | None] = []
        self._trunk_of: dict[Sequence, Trunk] = {}
        # A trunk has two requests at least, when it is made.
        self._trunks = Trunks(
            cache.trunks, max_slots=max(1, max_rows // 2), max_context=max_context, kv_tokens=kv_tokens
        )

    def __iter__(self) -> Iterator[Sequence]:
        """The running requests by row."""
        return (sequence for sequence in self._by_row if sequence is not None)

    def __len__(self) -> int:
        return sum(sequence is not None for sequence in self._by_row)

    def trunk(self, sequence: Sequence) -> Trunk | None:
        """Where its first tokens lie, if it shares them with others; the row holds those after them."""
        return self._trunk_of.get(sequence)

    def base(self, sequence: Sequence) -> int:
        """Tokens of it that lie in the trunk."""
        trunk = self._trunk_of.get(sequence)
        return len(trunk.tokens) if trunk else 0

    def matched(self, tokens: Tokens) -> int:
        """How many of the first of these are kept from before."""
        return self.prefixes.match(tokens)[0]

    def place(self, sequence: Sequence, policy_version: int) -> bool:
        """Give a request a row, with what is kept of its prompt; False: there is none of its length now."""
        matched, runs = self.prefixes.match(sequence.readable)
        trunk = self._shared_trunk(sequence, policy_version, matched, runs)
        base = len(trunk.tokens) if trunk else 0
        if sequence.need - base > self._store.capacity or None not in self._by_row:
            longest = max([sequence.need - base, *(running.need - self.base(running) for running in self)])
            capacity = capacity_for(longest, self._max_context)
            if len(self) >= self._rows_of(capacity):
                if trunk and not trunk.users:
                    trunk.users = 1
                    self._trunks.leave(trunk)
                return False
            self._resize(capacity)
        sequence.row = self._by_row.index(None)
        self._by_row[sequence.row] = sequence
        sequence.filled, sequence.first_version = matched, policy_version
        if trunk:
            self._join(sequence, trunk)
        put_runs(self._store, sequence.row, runs, base, matched)
        return True

    def remember(self, sequence: Sequence, length: int) -> None:
        """Keep its first `length` tokens for others that begin with them."""
        self.prefixes.insert(sequence.tokens[:length], functools.partial(self.read, sequence))

    def read(self, sequence: Sequence, start: int, stop: int) -> KVRun:
        """A copy of some of its tokens, wherever they lie."""
        trunk, base = self.trunk(sequence), self.base(sequence)
        own = self._store.read(sequence.row, max(start - base, 0), stop - base)
        if start >= base or trunk is None:
            return own
        shared = self.cache.trunks.read(trunk.slot, start, base)
        return KVRun(
            keys=torch.cat((shared.keys, own.keys), 2), values=torch.cat((shared.values, own.values), 2)
        )

    def remove(self, sequence: Sequence) -> None:
        """The request has left; its row is free."""
        self._by_row[sequence.row] = None
        sequence.row = -1
        if trunk := self._trunk_of.pop(sequence, None):
            self._trunks.leave(trunk)

    def close_gaps(self) -> None:
        """Move the last rows into free ones when reading the gaps costs more than a few copies."""
        busy = len(self)
        span = max((sequence.row for sequence in self), default=-1) + 1
        if span - busy <= max(2, busy // 8):
            return
        gaps = (row for row in range(busy) if self._by_row[row] is None)
        for sequence in [sequence for sequence in self if sequence.row >= busy]:
            gap = next(gaps)
            self._store.move(sequence.row, gap, sequence.filled - self.base(sequence))
            self._by_row[sequence.row], self._by_row[gap] = None, sequence
            sequence.row = gap

    def forget(self) -> None:
        """Drop what is kept for later requests."""
        self.prefixes.clear()

    def clear(self) -> None:
        """Drop all requests, what is kept, and the memory."""
        self.prefixes.clear()
        self._by_row, self._trunk_of = [], {}
        self._store.resize(rows=0, capacity=0, keep=[])
        self._trunks.clear()

    def _shared_trunk(
        self, sequence: Sequence, policy_version: int, matched: int, runs: list[KVRun]
    ) -> Trunk | None:
        """A trunk for the request: one that is there, or a new one with a request that shares enough."""
        if matched < SHORTEST_TRUNK:
            return None
        prefix = sequence.tokens[:matched]
        # One token more, because a trunk never holds all of what it is asked for.
        found = self._trunks.find(sequence.tokens[: matched + 1], policy_version)
        if found:
            return found
        partners = [
            (common_prefix(one.tokens[: one.filled], prefix), one)
            for one in self
            if one.first_version == policy_version and one not in self._trunk_of
        ]
        length = max((common for common, _ in partners), default=0)
        if length < SHORTEST_TRUNK:
            return None
        trunk = self._trunks.create(prefix[:length], policy_version, runs)
        if trunk:
            for common, one in partners:
                if common == length:
                    self._move_into(one, trunk)
        return trunk

    def _move_into(self, sequence: Sequence, trunk: Trunk) -> None:
        """Let a running request use a trunk: what it has of its own moves to the beginning of its row."""
        base = len(trunk.tokens)
        self._store.write(sequence.row, 0, self._store.read(sequence.row, base, sequence.filled))
        self._join(sequence, trunk)

    def _join(self, sequence: Sequence, trunk: Trunk) -> None:
        self._trunk_of[sequence] = trunk
        trunk.users += 1

    def _rows_of(self, capacity: int) -> int:
        return min(self._max_rows, self._kv_tokens // capacity)

    def _resize(self, capacity: int) -> None:
        running = list(self)
        rows = self._rows_of(capacity)
        keep = [(one.row, one.filled - self.base(one)) for one in running]
        self._store.resize(rows=rows, capacity=capacity, keep=keep)
        self._by_row = [*running, *[None] * (rows - len(running))]
        for row, sequence in enumerate(running):
            sequence.row = row
