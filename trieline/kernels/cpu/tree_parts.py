"""How the attention of a trie is cut into parts that compute few pairs in vain, once a pack, for the CPU.

Tokens stand in depth-first preorder; query i sees key j iff `j <= i < subtree_end[j]`. A *trunk*, a long
chain under which something hangs, runs against everything below it at once: those queries are one run of
tokens, and all of them see all of its keys, so nothing is masked and nothing is copied. What is left is cut
into blocks of queries, which run against their own keys and those of the ancestors that are no trunks.
Shapes: B queries of a block, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trieline.kernels.cpu.flags import has_bfloat16
from trieline.kernels.cpu.precision import reproducible_dtype, sum_dtype

MAX_BLOCK = 128
"""Queries of a block. A block inside a chain computes half a square of this side in vain."""
MIN_TRUNK = 256
"""Tokens of a chain from which it is a trunk. Shorter ones cost less as keys copied together for a block."""
BLOCK_OVERHEAD_PAIRS = 2000
"""What one more block costs, in query-key pairs: two small blocks become one if that adds fewer pairs.
Measured with 9 heads of 64 in float32: about 90 us against 8 kFLOP a pair, forward and backward."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QueryBlock:
    """Queries `start:stop` against the keys of `key_ranges`, the last of which ends with their own."""

    start: int
    stop: int
    key_ranges: tuple[tuple[int, int], ...]
    mask: Tensor | None
    """[B, keys] 0 where visible, -inf where not. None: a chain without ancestors, plainly causal."""
    backward_mask: Tensor | None
    """The same in the precision of the backward."""

    @property
    def queries(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """Keys `start:stop`, which all queries `stop:end` see."""

    start: int
    stop: int
    end: int

    @property
    def keys(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def queries(self) -> slice:
        return slice(self.stop, self.end)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TreeParts:
    """The parts of one trie or several, and the precisions in which they are computed."""

    blocks: tuple[QueryBlock, ...]
    """Of all queries, in order."""
    trunks: tuple[Trunk, ...]
    forward_dtype: torch.dtype
    """What the result is computed in, and below, the gradients."""
    backward_dtype: torch.dtype
    num_above: int | None = None
    """Of parts of a window: `key_ranges` count from the first of so many tokens above. None: those above are
    all seen by all queries, and stand in no part here."""

    @property
    def num_tokens(self) -> int:
        return self.blocks[-1].stop if self.blocks else 0


def plan_tree_parts(subtree_end: Tensor, *, dtype: torch.dtype, reproducible: bool = True) -> TreeParts:
    """Cut the preorder `subtree_end` [T] into parts for queries of `dtype`.

    Args:
        subtree_end: as in the module.
        dtype: of queries, keys and values.
        reproducible: in half precision, compute the result in float64 (`reproducible_dtype`) and gradients
            in float32. Without it the result is computed in half precision, and so are gradients where the
            CPU has instructions for it: elsewhere float32 is three times as fast.
    """
    forward_dtype = reproducible_dtype(dtype) if reproducible else dtype
    backward_dtype = sum_dtype(dtype) if reproducible or not has_bfloat16() else dtype
    ends = subtree_end.tolist()
    chains = find_chains(ends)
    trunks = tuple(
        Trunk(start=start, stop=stop, end=ends[start])
        for start, stop in chains
        if stop - start >= MIN_TRUNK and stop < ends[start]
    )
    cuts = cut_blocks(ends, chains, trunks)
    return TreeParts(
        blocks=_query_blocks(subtree_end, ends, cuts, (forward_dtype, backward_dtype)),
        trunks=trunks,
        forward_dtype=forward_dtype,
        backward_dtype=backward_dtype,
    )


def _query_blocks(
    subtree_end: Tensor, ends: list[int], cuts: list[Cut], precisions: tuple[torch.dtype, torch.dtype]
) -> tuple[QueryBlock, ...]:
    """The blocks of `cuts` with their masks in the `precisions` of forward and backward."""
    longest = max((_size(key_ranges) for _, _, key_ranges in cuts), default=0)
    chain_masks = [_chain_mask(longest, precision) for precision in dict.fromkeys(precisions)]
    blocks = []
    for start, stop, key_ranges in cuts:
        is_chain = len(set(ends[start:stop])) == 1
        if is_chain and key_ranges[0][0] == start:
            masks: list[Tensor | None] = [None]
        elif is_chain:
            corner = MAX_BLOCK - (stop - start), longest - _size(key_ranges)
            masks = [mask[corner[0] :, corner[1] :] for mask in chain_masks]
        else:
            mask = _branching_mask(subtree_end, start, stop, key_ranges, precisions[0])
            masks = [mask, mask.to(precisions[1])]
        blocks.append(
            QueryBlock(start=start, stop=stop, key_ranges=key_ranges, mask=masks[0], backward_mask=masks[-1])
        )
    return tuple(blocks)


def gather_keys(keys: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """[1, G, K, D] the keys (or values) of `ranges`, out of [1, G, T, D]."""
    if len(ranges) == 1:
        return keys[:, :, ranges[0][0] : ranges[0][1]]
    return torch.cat([keys[:, :, lo:hi] for lo, hi in ranges], dim=2)


def add_to_keys(total: Tensor, part: Tensor, ranges: Sequence[tuple[int, int]]) -> None:
    """Add `part`, in the order of `gather_keys`, to the `ranges` of `total`."""
    offset = 0
    for lo, hi in ranges:
        total[:, :, lo:hi] += part[:, :, offset : offset + hi - lo]
        offset += hi - lo


Cut = tuple[int, int, tuple[tuple[int, int], ...]]


def cut_blocks(
    ends: list[int], chains: list[tuple[int, int]], trunks: Sequence[Trunk], *, whole_roots: bool = True
) -> list[Cut]:
    """Blocks (start, stop, key ranges) in preorder: chains, neighbours joined where that is cheap.

    `whole_roots`: a chain that nothing stands above is one block, however long.
    """
    cuts: list[Cut] = []
    trunk_starts = {trunk.start for trunk in trunks}
    # The chains from the root to the current place that are no trunks: (start, stop, subtree_end).
    above: list[tuple[int, int, int]] = []
    may_join = False
    for start, stop in chains:
        while above and above[-1][2] <= start:
            above.pop()
        size = MAX_BLOCK if above or not whole_roots else stop - start
        for lo in range(start, stop, size):
            hi = min(lo + size, stop)
            ancestors = _merge_adjacent(
                [*((a, b) for a, b, _ in above), *([(start, lo)] if lo > start else [])]
            )
            cut = (lo, hi, _merge_adjacent([*ancestors, (lo, hi)]))
            _append_or_join(cuts, cut, may_join=may_join)
            may_join = True
        if start in trunk_starts:
            # What hangs below has its keys already.
            may_join = False
        else:
            above.append((start, stop, ends[start]))
    return cuts


def find_chains(ends: list[int]) -> list[tuple[int, int]]:
    """Maximal runs without a fork: each token the only child of the one before it."""
    starts = [i for i in range(len(ends)) if i == 0 or ends[i] != ends[i - 1]]
    return list(zip(starts, [*starts[1:], len(ends)], strict=True))


def _append_or_join(cuts: list[Cut], cut: Cut, *, may_join: bool) -> None:
    if may_join and cut[1] - cuts[-1][0] <= MAX_BLOCK:
        start, stop, key_ranges = cuts[-1]
        # Keys of the joined block: the ancestors of its first token, and itself.
        keys = _size(key_ranges) + cut[1] - stop
        added = (
            (cut[1] - start) * keys - (stop - start) * _size(key_ranges) - (cut[1] - cut[0]) * _size(cut[2])
        )
        if added < BLOCK_OVERHEAD_PAIRS:
            lo, hi = key_ranges[-1]
            cuts[-1] = (start, cut[1], (*key_ranges[:-1], (lo, hi + cut[1] - stop)))
            return
    cuts.append(cut)


def _merge_adjacent(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for lo, hi in ranges:
        if merged and merged[-1][1] == lo:
            merged[-1] = (merged[-1][0], hi)
        else:
            merged.append((lo, hi))
    return tuple(merged)


def _size(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(hi - lo for lo, hi in ranges)


def _chain_mask(longest: int, dtype: torch.dtype) -> Tensor:
    """[MAX_BLOCK, longest] all ancestors visible, the block's own keys causal: every chain takes a corner."""
    visible = torch.ones(MAX_BLOCK, longest, dtype=torch.bool).tril(longest - MAX_BLOCK)
    return torch.zeros(MAX_BLOCK, longest, dtype=dtype).masked_fill_(~visible, -torch.inf)


def _branching_mask(
    subtree_end: Tensor, start: int, stop: int, key_ranges: Sequence[tuple[int, int]], dtype: torch.dtype
) -> Tensor:
    keys = torch.cat([torch.arange(lo, hi) for lo, hi in key_ranges])
    queries = torch.arange(start, stop)[:, None]
    visible = (keys <= queries) & (queries < subtree_end[keys])
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf)
