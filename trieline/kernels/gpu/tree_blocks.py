"""Which blocks of queries and keys a trie's mask leaves to compute: O(N) numbers, made on the device.

Query i sees key j iff `j <= i < subtree_end[j]`. With the least and the greatest `subtree_end` of a block of
keys `n0:n1`, its pair with the queries `m0:m1` is

    empty   if n0 >= m1 or greatest <= m0
    full    if n1 - 1 <= m0 and least >= m1
    partial otherwise

With a sliding window, query i sees key j only if `depth[i] - depth[j] < window`, too. Then a pair is empty
also if the least depth of its queries is that far below the greatest of its keys, and full only if the
greatest depth of its queries is not that far below the least of its keys.

Forward and dQ walk the keys of a block of queries, which are ancestors of its first token and the block
itself: few contiguous runs, full ones and partial ones apart. In preorder the queries of a block of keys are
one contiguous range, so dK and dV need no list; there the long ranges (the trunk, seen by all) are cut into
slices of about equal work, so that no program runs much longer than the others. Nothing here waits for the
device, and no block size depends on the dtype or the head size: one plan serves all layers of a pack.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERY_BLOCK = 128
KEY_BLOCK = 64
MAX_RUNS = 64
"""Runs of either kind that are kept a block of queries. A path that leaves and meets more side branches than
this is walked from its first to its last key block with the mask on: slower, and as exact."""
SLICES = 128
"""Equal parts that the work of dK and dV is cut into for one key head: about one for each multiprocessor."""
LEAST_SLICE = 4
"""Blocks of queries below which a slice is not worth its partial sum."""
_SCAN = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TreeBlocks:
    """The plan of the GPU kernels for `num_queries` queries from `query_offset` on, over `num_keys` keys.

    Q = ceil(num_queries / QUERY_BLOCK), K = ceil(num_keys / KEY_BLOCK). All tensors are int32.
    """

    subtree_end: Tensor
    """[num_keys]"""
    depth: Tensor
    """[num_keys]; without a window nothing reads it."""
    key_extent: Tensor
    """[4, K] of a block of keys least and greatest `subtree_end`, 0 where no query sees a key,
    and with a window least and greatest depth."""
    runs: Tensor
    """[Q, 2, 2, MAX_RUNS] of the full and of the partial runs: first key block, and one past the last."""
    num_runs: Tensor
    """[Q, 2] full and partial runs."""
    items: Tensor
    """[4, K + SLICES] work of dK and dV: key block, first query block, one past the last, and the slot of the
    partial sum, or -1 if the key block is not cut."""
    slices: Tensor
    """[3, K] slices of a key block, the slot of the first one's partial sum, and its item."""
    schedule: Tensor
    """[2] number of items, and query blocks of a whole slice."""
    query_offset: int
    num_queries: int
    window: int = 0
    """0: none."""

    @property
    def num_keys(self) -> int:
        return len(self.subtree_end)


def num_slots(num_queries: int, num_keys: int) -> int:
    """An upper bound of the partial sums of dK and dV: a block that is cut has less than twice its share."""
    query_blocks = triton.cdiv(num_queries, QUERY_BLOCK)
    if query_blocks <= LEAST_SLICE:
        return 0
    return int(min(2 * SLICES, triton.cdiv(num_keys, KEY_BLOCK) * triton.cdiv(query_blocks, LEAST_SLICE)))


def plan_tree_blocks(
    subtree_end: Tensor,
    *,
    query_offset: int = 0,
    num_queries: int | None = None,
    window: int = 0,
    depth: Tensor | None = None,
) -> TreeBlocks:
    """Plan attention of `num_queries` tokens from `query_offset` on (default: all) over the keys [num_keys].

    Keys are numbered in preorder, whether they are a whole pack, or the path down to a segment and the
    segment itself. A key with `subtree_end[j] <= j` is seen by no query. `window` 0: none;
    else `depth` [num_keys] int32 of the keys (`preorder.depths`) is needed.
    """
    num_keys = len(subtree_end)
    if num_queries is None:
        num_queries = num_keys - query_offset
    if subtree_end.ndim != 1 or subtree_end.dtype not in (torch.int32, torch.int64):
        got = f"{[*subtree_end.shape]} {subtree_end.dtype}"
        msg = f"expected subtree_end of [keys] in int32 or int64, got {got}"
        raise ValueError(msg)
    if query_offset < 0 or num_queries < 0 or query_offset + num_queries > num_keys:
        msg = (
            f"expected queries within the {num_keys} keys, "
            f"got {num_queries} from {query_offset} to {query_offset + num_queries}"
        )
        raise ValueError(msg)
    if (depth is not None) != (window > 0):
        msg = f"expected the depth of keys with a window and only then, got a window of {window}"
        raise ValueError(msg)
    ends = subtree_end.to(torch.int32).contiguous()
    query_blocks, key_blocks = triton.cdiv(num_queries, QUERY_BLOCK), triton.cdiv(num_keys, KEY_BLOCK)
    blocks = TreeBlocks(
        subtree_end=ends,
        depth=ends if depth is None else depth,
        key_extent=ends.new_empty(4, key_blocks),
        runs=ends.new_empty(query_blocks, 2, 2, MAX_RUNS),
        num_runs=ends.new_empty(query_blocks, 2),
        items=ends.new_empty(4, key_blocks + SLICES),
        slices=ends.new_empty(3, key_blocks),
        schedule=ends.new_empty(2),
        query_offset=query_offset,
        num_queries=num_queries,
        window=window,
    )
    if key_blocks:
        _key_extents[(key_blocks,)](
            ends, blocks.depth, blocks.key_extent, num_keys, key_blocks, KEY_BLOCK, num_warps=1
        )
        _schedule_slices[(1,)](
            blocks.key_extent, blocks.slices, blocks.schedule, num_queries, query_offset, key_blocks,
            QUERY_BLOCK, KEY_BLOCK, SLICES, LEAST_SLICE, 4 * _SCAN, num_warps=4,
        )  # fmt: skip
        _cut_slices[(key_blocks,)](
            blocks.key_extent, blocks.slices, blocks.schedule, blocks.items,
            num_queries, query_offset, key_blocks, key_blocks + SLICES,
            QUERY_BLOCK, KEY_BLOCK, 2 * SLICES, num_warps=1,
        )  # fmt: skip
    if query_blocks:
        _query_runs[(query_blocks,)](
            blocks.depth, blocks.key_extent, blocks.runs, blocks.num_runs,
            num_queries, query_offset, key_blocks, window,
            window > 0, QUERY_BLOCK, KEY_BLOCK, MAX_RUNS, _SCAN, num_warps=4,
        )  # fmt: skip
    return blocks


@triton.jit(do_not_specialize=["num_keys", "key_blocks"])
def _key_extents(SubtreeEnd, Depth, KeyExtent, num_keys, key_blocks, KEY_BLOCK: tl.constexpr):
    """Least and greatest `subtree_end` and depth of the key block of this program."""
    block = tl.program_id(0)
    keys = block * KEY_BLOCK + tl.arange(0, KEY_BLOCK)
    ends = tl.load(SubtreeEnd + keys, mask=keys < num_keys, other=0)
    ends = tl.where(ends > keys, ends, 0)
    tl.store(KeyExtent + block, tl.min(ends, axis=0))
    tl.store(KeyExtent + key_blocks + block, tl.max(ends, axis=0))
    inside = keys < num_keys
    least = tl.load(Depth + keys, mask=inside, other=num_keys)
    greatest = tl.load(Depth + keys, mask=inside, other=0)
    tl.store(KeyExtent + 2 * key_blocks + block, tl.min(least, axis=0))
    tl.store(KeyExtent + 3 * key_blocks + block, tl.max(greatest, axis=0))


@triton.jit
def _kinds(
    KeyExtent,
    blocks,
    key_blocks,
    m0,
    m1,
    nearest,
    farthest,
    window,
    WINDOW: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    """Whether the key blocks `blocks` are full, and whether they are partial, for the queries m0:m1.

    `nearest` and `farthest`: least and greatest depth of those queries.
    """
    inside = (blocks >= 0) & (blocks < key_blocks)
    least = tl.load(KeyExtent + blocks, mask=inside, other=0)
    greatest = tl.load(KeyExtent + key_blocks + blocks, mask=inside, other=0)
    n0 = blocks * KEY_BLOCK
    visible = inside & (n0 < m1) & (greatest > m0)
    full = visible & (n0 + KEY_BLOCK - 1 <= m0) & (least >= m1)
    if WINDOW:
        highest = tl.load(KeyExtent + 2 * key_blocks + blocks, mask=inside, other=0)
        lowest = tl.load(KeyExtent + 3 * key_blocks + blocks, mask=inside, other=0)
        visible = visible & (nearest - lowest < window)
        full = full & visible & (farthest - highest < window)
    return full, visible & (full == 0)


@triton.jit
def _store_runs(Runs, blocks, before, here, after, known, MAX_RUNS: tl.constexpr):
    """Store the runs that begin or end among `blocks`; returns how many runs are known then."""
    begins = here & (before == 0)
    rank = known + tl.cumsum(begins.to(tl.int32), axis=0) - 1
    fits = rank < MAX_RUNS
    tl.store(Runs + rank, blocks, mask=begins & fits)
    tl.store(Runs + MAX_RUNS + rank, blocks + 1, mask=here & (after == 0) & fits)
    return known + tl.sum(begins.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["num_queries", "query_offset", "key_blocks", "window"])
def _query_runs(
    Depth,
    KeyExtent,
    Runs,
    NumRuns,
    num_queries,
    query_offset,
    key_blocks,
    window,
    WINDOW: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    MAX_RUNS: tl.constexpr,
    SCAN: tl.constexpr,
):
    """Full and partial runs of key blocks for the query block of this program."""
    block = tl.program_id(0)
    m0 = query_offset + block * QUERY_BLOCK
    m1 = tl.minimum(m0 + QUERY_BLOCK, query_offset + num_queries)
    full_runs = Runs + block * 4 * MAX_RUNS
    partial_runs = full_runs + 2 * MAX_RUNS
    queries = m0 + tl.arange(0, QUERY_BLOCK)
    depth = tl.load(Depth + queries, mask=queries < m1, other=0)
    farthest = tl.max(depth, axis=0)
    nearest = tl.min(tl.where(queries < m1, depth, farthest), axis=0)
    num_full = 0
    num_partial = 0
    first = key_blocks
    last = -1
    for start in range(0, tl.cdiv(m1, KEY_BLOCK), SCAN):
        ids = start + tl.arange(0, SCAN)
        full_before, partial_before = _kinds(
            KeyExtent, ids - 1, key_blocks, m0, m1, nearest, farthest, window, WINDOW, KEY_BLOCK
        )
        full, partial = _kinds(
            KeyExtent, ids, key_blocks, m0, m1, nearest, farthest, window, WINDOW, KEY_BLOCK
        )
        full_after, partial_after = _kinds(
            KeyExtent, ids + 1, key_blocks, m0, m1, nearest, farthest, window, WINDOW, KEY_BLOCK
        )
        num_full = _store_runs(full_runs, ids, full_before, full, full_after, num_full, MAX_RUNS)
        num_partial = _store_runs(
            partial_runs, ids, partial_before, partial, partial_after, num_partial, MAX_RUNS
        )
        first = tl.minimum(first, tl.min(tl.where(full | partial, ids, key_blocks), axis=0))
        last = tl.maximum(last, tl.max(tl.where(full | partial, ids, -1), axis=0))
    too_many = (num_full > MAX_RUNS) | (num_partial > MAX_RUNS)
    tl.store(NumRuns + 2 * block, tl.where(too_many, 0, num_full))
    tl.store(NumRuns + 2 * block + 1, tl.where(too_many, 1, num_partial))
    # Another thread may have stored the run that this replaces.
    tl.debug_barrier()
    tl.store(partial_runs, first, mask=too_many)
    tl.store(partial_runs + MAX_RUNS, last + 1, mask=too_many)


@triton.jit
def _query_range(
    KeyExtent,
    blocks,
    key_blocks,
    num_queries,
    query_offset,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    """First query block that sees `blocks`, and how many do."""
    greatest = tl.load(KeyExtent + key_blocks + blocks, mask=blocks < key_blocks, other=0)
    first = tl.maximum(blocks * KEY_BLOCK - query_offset, 0)
    stop = tl.minimum(greatest - query_offset, num_queries)
    first_block = first // QUERY_BLOCK
    length = tl.where(stop > first, tl.cdiv(stop, QUERY_BLOCK) - first_block, 0)
    return first_block, length


@triton.jit(do_not_specialize=["num_queries", "query_offset", "key_blocks"])
def _schedule_slices(
    KeyExtent,
    Slices,
    Schedule,
    num_queries,
    query_offset,
    key_blocks,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    SLICES: tl.constexpr,
    LEAST_SLICE: tl.constexpr,
    SCAN: tl.constexpr,
):
    """One program: into how many slices each key block is cut, and where they stand in the list."""
    work = 0
    for start in range(0, key_blocks, SCAN):
        ids = start + tl.arange(0, SCAN)
        _, length = _query_range(
            KeyExtent, ids, key_blocks, num_queries, query_offset, QUERY_BLOCK, KEY_BLOCK
        )
        work += tl.sum(length, axis=0)
    slice_length = tl.maximum(tl.cdiv(work, SLICES), LEAST_SLICE)
    num_items = 0
    num_slots = 0
    for start in range(0, key_blocks, SCAN):
        ids = start + tl.arange(0, SCAN)
        inside = ids < key_blocks
        _, length = _query_range(
            KeyExtent, ids, key_blocks, num_queries, query_offset, QUERY_BLOCK, KEY_BLOCK
        )
        # A key block that no query sees still has an item, which writes its zeros.
        number = tl.where(inside, tl.maximum(tl.cdiv(length, slice_length), 1), 0)
        slots = tl.where(number > 1, number, 0)
        tl.store(Slices + ids, number, mask=inside)
        tl.store(Slices + key_blocks + ids, num_slots + tl.cumsum(slots, axis=0) - slots, mask=inside)
        tl.store(Slices + 2 * key_blocks + ids, num_items + tl.cumsum(number, axis=0) - number, mask=inside)
        num_items += tl.sum(number, axis=0)
        num_slots += tl.sum(slots, axis=0)
    tl.store(Schedule, num_items)
    tl.store(Schedule + 1, slice_length)


@triton.jit(do_not_specialize=["num_queries", "query_offset", "key_blocks", "max_items"])
def _cut_slices(
    KeyExtent,
    Slices,
    Schedule,
    Items,
    num_queries,
    query_offset,
    key_blocks,
    max_items,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    MAX_SLICES: tl.constexpr,
):
    """The items of the key block of this program."""
    block = tl.program_id(0)
    number = tl.load(Slices + block)
    first_slot = tl.load(Slices + key_blocks + block)
    first_item = tl.load(Slices + 2 * key_blocks + block)
    slice_length = tl.load(Schedule + 1)
    first, length = _query_range(
        KeyExtent, block, key_blocks, num_queries, query_offset, QUERY_BLOCK, KEY_BLOCK
    )
    ids = tl.arange(0, MAX_SLICES)
    item = Items + first_item + ids
    start = first + ids * slice_length
    tl.store(item, tl.zeros_like(ids) + block, mask=ids < number)
    tl.store(item + max_items, start, mask=ids < number)
    tl.store(item + 2 * max_items, tl.minimum(start + slice_length, first + length), mask=ids < number)
    tl.store(item + 3 * max_items, tl.where(number > 1, first_slot + ids, -1), mask=ids < number)
