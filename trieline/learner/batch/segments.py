"""How a trie beyond the budget is cut for depth-first execution.

A segment is at most a quarter of the budget, and hangs below one token of an earlier segment (or of none). A
*closed* segment holds whole subtrees: nothing hangs below it. An *open* one holds a line of descent, its
`trunk`, with small subtrees beside it; the rest hangs below the last token of the trunk. So the trunks of the
segments under way make up one path, and their keys and values stand in memory by depth.

Segments come in an order in which each follows the one that it hangs below, and what hangs below a segment
follows it without a gap: run forward in this order and backward when the next one hangs elsewhere, only the
segments above the current one are under way. Those of them whose activations don't fit in the budget are run
again for their backward: the ones nearest to the root, of which there are fewest.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Int64
from trieline.learner.batch.trie import Trie

SEGMENTS_IN_BUDGET = 4
"""Smaller segments fill the budget better, larger ones make fewer and better forward passes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """T tokens that are run together."""

    tokens: Int64
    """[T] places in the trie, rising."""
    depth: int
    """Tokens above the segment, on the path to each of its tokens."""
    trunk: Int64
    """[K] index into `tokens` of the line below whose end others hang. Empty: the segment is closed."""
    above: int
    """Index of the segment that it hangs below, -1 for none."""
    end: int = 0
    """Index of the first segment after it that doesn't hang below it."""
    keeps_graph: bool = True
    """False: too much hangs below to keep its activations; they are computed again for the backward."""

    def subtree_end(self, trie: Trie) -> npt.NDArray[np.int32]:
        """[T] one past the last token of the segment under each of its tokens."""
        ends = np.searchsorted(self.tokens, trie.subtree_end[self.tokens])
        return ends.astype(np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Below:
    """What is still to be cut: sibling subtrees (first token, one past the last) below one token."""

    subtrees: tuple[tuple[int, int], ...]
    depth: int
    above: int


class _Shape:
    """Looks up chains and siblings in a trie."""

    def __init__(self, trie: Trie) -> None:
        self._subtree_end = trie.subtree_end
        # A token is the only child of the one before it iff their subtrees end together.
        self._chain_stops = np.append(np.flatnonzero(np.diff(trie.subtree_end)) + 1, trie.num_tokens)

    def chain_stop(self, start: int) -> int:
        """One past the last token that is reached from `start` without a fork."""
        return int(self._chain_stops[np.searchsorted(self._chain_stops, start, side="right")])

    def siblings(self, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        """The subtrees that follow each other from `start` to `stop`."""
        subtrees = []
        while start < stop:
            end = int(self._subtree_end[start])
            subtrees.append((start, end))
            start = end
        return tuple(subtrees)


def cut_segments(trie: Trie, *, max_tokens: int) -> list[Segment]:
    """Cut `trie` so that at most `max_tokens` of its tokens have activations at any time."""
    size = max(1, max_tokens // SEGMENTS_IN_BUDGET)
    segments: list[Segment] = []
    shape = _Shape(trie)
    waiting = [_Below(subtrees=shape.siblings(0, trie.num_tokens), depth=0, above=-1)]
    while waiting:
        below = waiting.pop()
        if sum(hi - lo for lo, hi in below.subtrees) <= size:
            tokens = np.concatenate([np.arange(lo, hi) for lo, hi in below.subtrees])
            segments.append(_segment(tokens, np.empty(0, np.int64), below))
        elif len(below.subtrees) > 1:
            waiting += reversed(_groups(below, size))
        else:
            segment, rest = _open_segment(shape, below, size, index=len(segments))
            segments.append(segment)
            waiting += reversed(rest)
    return _with_budget(segments, max_tokens)


def _groups(below: _Below, size: int) -> list[_Below]:
    """Small siblings in groups of at most `size` tokens, then each larger one alone."""
    groups: list[list[tuple[int, int]]] = []
    room = 0
    for lo, hi in below.subtrees:
        if hi - lo > size:
            continue
        if hi - lo > room:
            groups.append([])
            room = size
        groups[-1].append((lo, hi))
        room -= hi - lo
    large = [((lo, hi),) for lo, hi in below.subtrees if hi - lo > size]
    return [replace(below, subtrees=subtrees) for subtrees in (*map(tuple, groups), *large)]


def _open_segment(shape: _Shape, below: _Below, size: int, *, index: int) -> tuple[Segment, list[_Below]]:
    """The segment at the root of one subtree of more than `size` tokens, and what hangs below it."""
    start, stop = below.subtrees[0]
    ranges: list[tuple[int, int]] = []
    trunk: list[tuple[int, int]] = []
    rest: list[_Below] = []
    room, depth = size, below.depth
    while True:
        fork = shape.chain_stop(start)
        if fork - start > room:
            # A longer chain is cut into equal pieces, unless it only fills up what forks have left.
            pieces = -(-(fork - start) // size)
            cut = start + (room if ranges else -(-(fork - start) // pieces))
            trunk.append((start, cut))
            ranges.append((start, cut))
            rest.append(_Below(subtrees=((cut, stop),), depth=depth + cut - start, above=index))
            break
        trunk.append((start, fork))
        ranges.append((start, fork))
        room -= fork - start
        depth += fork - start
        children = shape.siblings(fork, stop)
        large = [child for child in children if child[1] - child[0] > size]
        small = sum(hi - lo for lo, hi in children) - sum(hi - lo for lo, hi in large)
        # Beside a single large subtree, what is too small for a segment of its own comes along.
        if len(large) != 1 or small > room or 2 * small > size:
            rest += _groups(_Below(subtrees=children, depth=depth, above=index), size)
            break
        ranges += [child for child in children if child not in large]
        room -= small
        start, stop = large[0]
        if room == 0:
            rest.append(_Below(subtrees=((start, stop),), depth=depth, above=index))
            break
    tokens = np.sort(np.concatenate([np.arange(lo, hi) for lo, hi in ranges]))
    on_trunk = np.concatenate([np.arange(lo, hi) for lo, hi in trunk])
    return _segment(tokens, np.searchsorted(tokens, on_trunk), below), rest


def _segment(tokens: Int64, trunk: Int64, below: _Below) -> Segment:
    return Segment(
        tokens=tokens.astype(np.int64), depth=below.depth, trunk=trunk.astype(np.int64), above=below.above
    )


def _with_budget(segments: list[Segment], max_tokens: int) -> list[Segment]:
    """Fill in `end` and `keeps_graph`, from the leaves up."""
    ends = list(range(1, len(segments) + 1))
    alive_below = [0] * len(segments)
    done = list(segments)
    for i in reversed(range(len(segments))):
        segment = segments[i]
        together = len(segment.tokens) + alive_below[i]
        keeps = together <= max_tokens
        alive = together if keeps else max(len(segment.tokens), alive_below[i])
        if segment.above >= 0:
            alive_below[segment.above] = max(alive_below[segment.above], alive)
            ends[segment.above] = max(ends[segment.above], ends[i])
        done[i] = replace(segment, end=ends[i], keeps_graph=keeps)
    return done
