"""The parts cover every visible pair once, and save pairs."""

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_tree_attention import forest
from trieline.kernels.cpu import tree_parts
from trieline.kernels.cpu.tree_parts import MAX_BLOCK, plan_tree_parts
from trieline.kernels.tree_attention import visible_pairs


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shortest_trunk=st.sampled_from([1, 4, 40, 256]))
def test_every_visible_pair_is_in_one_part_and_no_other_is(seed: int, shortest_trunk: int) -> None:
    rng = np.random.default_rng(seed)
    parents: list[int] = []
    for _ in range(rng.integers(1, 12)):
        # A new root, or a branch anywhere on the last path.
        parent = int(rng.choice([-1, *path_to(parents, len(parents) - 1)]))
        for _ in range(int(rng.choice([1, 2, 9, 130, 300]))):
            parents.append(parent)
            parent = len(parents) - 1
    subtree_end = torch.arange(1, len(parents) + 1)
    for i in range(len(parents) - 1, -1, -1):
        if parents[i] >= 0:
            subtree_end[parents[i]] = max(subtree_end[parents[i]], subtree_end[i])
    with mock.patch.object(tree_parts, "MIN_TRUNK", shortest_trunk):
        parts = plan_tree_parts(subtree_end, dtype=torch.float32)
    seen = torch.zeros(len(parents), len(parents), dtype=torch.int64)
    for block in parts.blocks:
        keys = torch.cat([torch.arange(lo, hi) for lo, hi in block.key_ranges])
        rows = torch.arange(block.start, block.stop)
        shown = (keys <= rows[:, None]) if block.mask is None else block.mask == 0
        seen[rows[:, None], keys] += shown.long()
    for trunk in parts.trunks:
        seen[trunk.queries, trunk.start : trunk.stop] += 1
    assert torch.equal(seen, visible_pairs(subtree_end).long())


def path_to(parents: list[int], token: int) -> list[int]:
    """`token` and all before it."""
    path = []
    while token >= 0:
        path.append(token)
        token = parents[token]
    return path


def test_blocks_cover_every_query_once_and_save_pairs() -> None:
    subtree_end = forest([(150, 4, 30), (20, 12, 9)])
    parts = plan_tree_parts(subtree_end, dtype=torch.float32)
    assert [b.start for b in parts.blocks] == [0, *(b.stop for b in parts.blocks[:-1])]
    assert parts.blocks[-1].stop == parts.num_tokens == len(subtree_end)
    computed = sum((b.stop - b.start) * sum(hi - lo for lo, hi in b.key_ranges) for b in parts.blocks)
    computed += sum((t.end - t.stop) * (t.stop - t.start) for t in parts.trunks)
    assert computed < parts.num_tokens**2 / 3
    assert all(b.stop - b.start <= MAX_BLOCK or b.mask is None for b in parts.blocks)
