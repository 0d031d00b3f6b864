"""Which groups share a forward pass: the fewest bins of at most `max_tokens` trie tokens, no group divided.

Groups of one pack are merged into one forest, so a prefix that several tasks share (a system prompt) is
computed once a pack. A group larger than `max_tokens` gets a pack of its own, which is run depth-first.

Bin packing is hard, so: two greedy rules, and where neither reaches the lower bound, a search that ends after
`SEARCH_STEPS` placements. Of equally many bins those are taken that compute fewer tokens.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trieline.common.prefix import common_prefix
from trieline.learner.batch.trie import Keys, lexicographic_order

SEARCH_STEPS = 2_000
"""Some hundredths of a second, beside a step of seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bin:
    groups: tuple[int, ...]
    tokens: int


class _Items:
    """What is to be packed."""

    def __init__(self, sizes: Sequence[int], prompts: Sequence[Keys], max_tokens: int) -> None:
        self.sizes = list(sizes)
        self.max_tokens = max_tokens
        shared = _shared_prefixes(prompts)
        # Plain lists: single numbers are read, many of them.
        self._shared: list[list[int]] = shared.tolist()
        np.fill_diagonal(shared, 0)
        self.least_added: list[int] = (np.array(self.sizes) - shared.max(axis=1)).tolist()

    def added(self, group: int, bin_: _Bin) -> int:
        """Tokens that `group` adds to a bin."""
        shared = self._shared[group]
        most = max([shared[other] for other in bin_.groups])
        return self.sizes[group] - most

    def put(self, group: int, bin_: _Bin) -> _Bin:
        return _Bin(groups=(*bin_.groups, group), tokens=bin_.tokens + self.added(group, bin_))

    def fitting(self, group: int, bins: Sequence[_Bin]) -> list[int]:
        most, least_added = self.max_tokens, self.least_added[group]
        return [
            i
            for i, b in enumerate(bins)
            if b.tokens + least_added <= most and b.tokens + self.added(group, b) <= most
        ]

    def lower_bound(self) -> int:
        """No packing has fewer bins: each group adds at least what it shares with no other."""
        alone = sum(size > self.max_tokens for size in self.sizes)
        others = [a for a, size in zip(self.least_added, self.sizes, strict=True) if size <= self.max_tokens]
        return alone + max(-(-sum(others) // self.max_tokens), 1 if others else 0)


def pack_groups(sizes: Sequence[int], prompts: Sequence[Keys], *, max_tokens: int) -> list[list[int]]:
    """Distribute groups over bins.

    `sizes[g]` is the number of unique tokens of group g, `prompts[g]` the keys of any sequence of it: what
    two of them have in common is counted once. Returns the groups of each bin; both orders are deterministic.
    """
    if not sizes:
        return []
    items = _Items(sizes, prompts, max_tokens)
    order = sorted(range(len(sizes)), key=lambda g: -sizes[g])
    found = [_greedy(items, order, rule) for rule in (_shares_most, _fullest)]
    best = min(found, key=_cost)
    if len(best) > items.lower_bound():
        best = min(best, _search(items, order, best), key=_cost)
    return [sorted(b.groups) for b in best]


def _cost(bins: Sequence[_Bin]) -> tuple[int, int]:
    return len(bins), sum(b.tokens for b in bins)


def _greedy(
    items: _Items, order: Sequence[int], preference: Callable[[_Items, int, _Bin], float]
) -> list[_Bin]:
    """Each group, largest first, into the preferred one of the bins that it fits in, else into a new one."""
    bins: list[_Bin] = []
    for g in order:
        fitting = items.fitting(g, bins)
        if fitting:
            i = max(fitting, key=lambda i: (preference(items, g, bins[i]), -i))
            bins[i] = items.put(g, bins[i])
        else:
            bins.append(_Bin(groups=(g,), tokens=items.sizes[g]))
    return bins


def _shares_most(items: _Items, group: int, bin_: _Bin) -> float:
    return -items.added(group, bin_)


def _fullest(items: _Items, group: int, bin_: _Bin) -> float:
    return bin_.tokens + items.added(group, bin_)


def _search(items: _Items, order: Sequence[int], best: list[_Bin]) -> list[_Bin]:
    """Depth-first over placements, largest group first; cut where it can't have fewer bins than `best`."""
    bound = items.lower_bound()
    waiting: list[tuple[int, tuple[_Bin, ...]]] = [(0, ())]
    for _ in range(SEARCH_STEPS):
        if not waiting or len(best) == bound:
            break
        placed, bins = waiting.pop()
        if len(bins) >= len(best):
            continue
        if placed == len(order):
            best = list(bins)
            continue
        g = order[placed]
        waiting.append((placed + 1, (*bins, _Bin(groups=(g,), tokens=items.sizes[g]))))
        # The fullest bin is tried first, so it comes last; of equal bins one is enough.
        for i in sorted(items.fitting(g, bins), key=lambda i: bins[i].tokens + items.added(g, bins[i])):
            waiting.append((placed + 1, (*bins[:i], items.put(g, bins[i]), *bins[i + 1 :])))
    return best


def _shared_prefixes(prompts: Sequence[Keys]) -> npt.NDArray[np.int64]:
    """[G, G] lengths of common prefixes: in lexicographic order the least of those between neighbours."""
    order = lexicographic_order(prompts)
    neighbours = [common_prefix(prompts[a], prompts[b]) for a, b in itertools.pairwise(order)]
    shared = np.zeros((len(order), len(order)), np.int64)
    for i in range(len(order)):
        shared[order[i], order[i]] = len(prompts[order[i]])
        if i + 1 < len(order):
            shared[order[i], order[i + 1 :]] = np.minimum.accumulate(neighbours[i:])
    return np.maximum(shared, shared.T)
