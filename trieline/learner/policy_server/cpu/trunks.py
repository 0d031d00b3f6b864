"""Which prefixes running requests share, and where each of them lies.

A trunk lives as long as a request uses it. Its keys and values are of one version of the weights; requests of
a newer version do not join it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trieline.common.prefix import common_prefix
from trieline.learner.policy_server.cpu.kv_store import KVRun, KVStore, capacity_for

Tokens = npt.NDArray[np.int32]

# Shorter ones are not worth a second pass of attention.
SHORTEST_TRUNK = 16


@dataclass(slots=True, eq=False)
class Trunk:
    """A shared prefix in row `slot` of the trunks' store."""

    tokens: Tokens
    policy_version: int
    slot: int
    users: int = 0


class Trunks:
    """At most `max_slots` trunks, and at most `kv_tokens` tokens in all of them."""

    def __init__(self, store: KVStore, *, max_slots: int, max_context: int, kv_tokens: int) -> None:
        self.store = store
        self._max_slots, self._max_context, self._kv_tokens = max_slots, max_context, kv_tokens
        self._by_slot: list[Trunk | None] = []

    def find(self, prompt: Tokens, policy_version: int) -> Trunk | None:
        """The longest trunk that `prompt` begins with."""
        fitting = [
            trunk
            for trunk in self._by_slot
            if trunk is not None
            and trunk.policy_version == policy_version
            and len(trunk.tokens) < len(prompt)
            and common_prefix(trunk.tokens, prompt) == len(trunk.tokens)
        ]
        return max(fitting, key=lambda trunk: len(trunk.tokens), default=None)

    def create(self, tokens: Tokens, policy_version: int, runs: list[KVRun]) -> Trunk | None:
        """A new trunk of `tokens`, whose keys and values `runs` begin with; None if there is no room."""
        held = [trunk for trunk in self._by_slot if trunk is not None]
        longest = max([len(tokens), *(len(trunk.tokens) for trunk in held)])
        capacity = capacity_for(longest, self._max_context)
        slots = min(self._max_slots, self._kv_tokens // capacity)
        if len(held) >= slots:
            return None
        if capacity > self.store.capacity or None not in self._by_slot:
            self.store.resize(
                rows=slots, capacity=capacity, keep=[(trunk.slot, len(trunk.tokens)) for trunk in held]
            )
            self._by_slot = [*held, *[None] * (slots - len(held))]
            for slot, trunk in enumerate(held):
                trunk.slot = slot
        trunk = Trunk(tokens.copy(), policy_version, self._by_slot.index(None))
        self._by_slot[trunk.slot] = trunk
        put_runs(self.store, trunk.slot, runs, 0, len(tokens))
        return trunk

    def leave(self, trunk: Trunk) -> None:
        """One request less uses it."""
        trunk.users -= 1
        if not trunk.users:
            self._by_slot[trunk.slot] = None

    def clear(self) -> None:
        """Drop all trunks and the memory."""
        self._by_slot = []
        self.store.resize(rows=0, capacity=0, keep=[])


def put_runs(store: KVStore, row: int, runs: list[KVRun], start: int, stop: int) -> None:
    """Write the tokens `start` to `stop` of consecutive runs to the beginning of a row."""
    begin = 0
    for run in runs:
        end = begin + len(run)
        first, last = max(start, begin) - begin, min(stop, end) - begin
        if first < last:
            place = begin + first - start
            store.write(row, place, run.view(first, last))
        begin = end
