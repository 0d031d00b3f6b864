"""The parts of a trie's attention over a sliding window, for the CPU.

Tokens stand in depth-first preorder; query i sees key j iff `j <= i < subtree_end[j]` and
`depth[i] - depth[j] < window`: of its path the last `window` tokens, itself among them. Blocks of queries are
cut as those without a window (`tree_parts`); the ancestors of a block's first token have the depths 0, 1, ...
in order, so what the window hides from all of the block is the beginning of its keys. There are no trunks:
few of the queries below one see all of it.
"""

import torch
from torch import Tensor

from trieline.kernels.cpu.flags import has_bfloat16
from trieline.kernels.cpu.precision import reproducible_dtype, sum_dtype
from trieline.kernels.cpu.tree_parts import QueryBlock, TreeParts, cut_blocks, find_chains


def plan_window_parts(
    subtree_end: Tensor,
    depth: Tensor,
    *,
    window: int,
    num_above: int,
    dtype: torch.dtype,
    reproducible: bool = True,
) -> TreeParts:
    """Cut the preorder `subtree_end` [T] at `depth` [T], below `num_above` tokens, into parts.

    `dtype` and `reproducible` as in `plan_tree_parts`. Keys count from the first token above.
    """
    forward_dtype = reproducible_dtype(dtype) if reproducible else dtype
    backward_dtype = sum_dtype(dtype) if reproducible or not has_bfloat16() else dtype
    num_keys = num_above + len(subtree_end)
    key_ends = torch.cat([subtree_end.new_full((num_above,), num_keys), subtree_end + num_above])
    key_depth = torch.cat([torch.arange(num_above, dtype=depth.dtype), depth])
    ends = key_ends.tolist()
    blocks = []
    for first, stop, key_ranges in cut_blocks(ends, find_chains(ends), (), whole_roots=False):
        start = max(first, num_above)
        if start >= stop:
            continue
        ranges = _without_first(key_ranges, int(key_depth[start:stop].min()) - window + 1)
        keys = torch.cat([torch.arange(lo, hi) for lo, hi in ranges])
        queries = torch.arange(start, stop)[:, None]
        visible = (keys <= queries) & (queries < key_ends[keys])
        visible &= key_depth[queries] - key_depth[keys] < window
        mask = torch.zeros(visible.shape, dtype=forward_dtype).masked_fill_(~visible, -torch.inf)
        blocks.append(
            QueryBlock(
                start=start - num_above,
                stop=stop - num_above,
                key_ranges=ranges,
                mask=mask,
                backward_mask=mask.to(backward_dtype),
            )
        )
    return TreeParts(
        blocks=tuple(blocks),
        trunks=(),
        forward_dtype=forward_dtype,
        backward_dtype=backward_dtype,
        num_above=num_above,
    )


def _without_first(ranges: tuple[tuple[int, int], ...], count: int) -> tuple[tuple[int, int], ...]:
    """The key ranges without their first `count` keys."""
    left = []
    for lo, hi in ranges:
        skipped = min(max(count, 0), hi - lo)
        count -= skipped
        if skipped < hi - lo:
            left.append((lo + skipped, hi))
    return tuple(left)
