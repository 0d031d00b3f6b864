"""Which request has which row of the table, and which slots its tokens have.

A request gets the slots of all tokens that it may come to when it begins, so that it never has to wait in
the middle. The pool holds what runs and what is kept for later: what is kept makes room.
"""

from collections.abc import Iterator

import numpy as np
import torch

from trieline.learner.policy_server.batching.prefix_cache import PrefixCache, Tokens
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.gpu.slot_pool import SlotPool, SlotRun, Slots


class SlotRows:
    """At most `max_rows` requests, and `kv_tokens` slots for them and for what is kept."""

    def __init__(
        self,
        device: torch.device,
        *,
        max_rows: int,
        max_context: int,
        kv_tokens: int,
        prefix_tokens: int,
    ) -> None:
        self.pool = SlotPool(kv_tokens)
        self.prefixes: PrefixCache[SlotRun] = PrefixCache(min(prefix_tokens, kv_tokens))
        self.table_RC = torch.zeros(max_rows, max_context, dtype=torch.int32, device=device)
        """Where each row's tokens lie."""
        self._by_row: list[Sequence | None] = [None] * max_rows
        self._slots_of: dict[Sequence, Slots] = {}

    def __iter__(self) -> Iterator[Sequence]:
        """The running requests by row."""
        return (sequence for sequence in self._by_row if sequence is not None)

    def __len__(self) -> int:
        return len(self._slots_of)

    def slots(self, sequence: Sequence) -> Slots:
        """[need] of a running request's tokens."""
        return self._slots_of[sequence]

    def matched(self, tokens: Tokens) -> int:
        """How many of the first of these are kept from before."""
        return self.prefixes.match(tokens)[0]

    def place(self, sequence: Sequence, policy_version: int) -> bool:
        """Give a request a row and slots, with what is kept of its prompt; False: there is no room now."""
        if None not in self._by_row:
            return False
        matched, runs = self.prefixes.match(sequence.readable)
        # Held first: to make room must not take these away.
        for run in runs:
            self.pool.hold(run.slots)
        own = self._take(sequence.need - matched)
        if own is None:
            for run in runs:
                run.free()
            return False
        slots = np.concatenate([*(run.slots for run in runs), own])
        sequence.row = self._by_row.index(None)
        self._by_row[sequence.row] = sequence
        self._slots_of[sequence] = slots
        self.table_RC[sequence.row, : len(slots)] = torch.from_numpy(slots).to(self.table_RC.device)
        sequence.filled, sequence.first_version = matched, policy_version
        return True

    def _take(self, count: int) -> Slots | None:
        while (slots := self.pool.take(count)) is None and self.prefixes.num_tokens:
            missing = count - self.pool.num_free
            self.prefixes.shrink(max(0, self.prefixes.num_tokens - missing))
        return slots

    def remember(self, sequence: Sequence, length: int) -> None:
        """Keep its first `length` tokens for others that begin with them."""

        def held(start: int, stop: int) -> SlotRun:
            slots = self._slots_of[sequence][start:stop].copy()
            self.pool.hold(slots)
            return SlotRun(slots, self.pool)

        self.prefixes.insert(sequence.tokens[:length], held)

    def remove(self, sequence: Sequence) -> None:
        """The request has left; row and slots are free."""
        self._by_row[sequence.row] = None
        sequence.row = -1
        self.pool.release(self._slots_of.pop(sequence))

    def forget(self) -> None:
        """Drop what is kept for later requests."""
        self.prefixes.clear()

    def clear(self) -> None:
        """Drop all requests and what is kept."""
        self.prefixes.clear()
        for sequence in list(self):
            self.remove(sequence)
