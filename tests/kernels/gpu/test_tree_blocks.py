"""The plan covers every visible pair once, and calls full only what is."""

import pytest
import torch

from tests.kernels.gpu.forests import DEVICE, forest, visible_pairs
from trieline.kernels.gpu.tree_blocks import (
    KEY_BLOCK,
    LEAST_SLICE,
    QUERY_BLOCK,
    SLICES,
    num_slots,
    plan_tree_blocks,
)


@pytest.mark.parametrize("seed", range(8))
def test_plan_covers_what_is_visible(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(1, 1400, (), generator=generator))
    ends = forest(size, seed, fork=(0.002, 0.02, 0.3)[seed % 3], padding=40 * (seed % 2))
    offset = int(torch.randint(0, size, (), generator=generator)) if seed % 4 == 3 else 0
    blocks = plan_tree_blocks(ends, query_offset=offset)
    visible = visible_pairs(ends, offset).cpu()
    by_block = [
        [tile.any() for tile in torch.split(rows, KEY_BLOCK, dim=1)]
        for rows in torch.split(visible, QUERY_BLOCK, dim=0)
    ]
    wanted = torch.tensor(by_block)

    walked = torch.zeros_like(wanted)
    for q in range(len(wanted)):
        for kind in range(2):
            for run in range(int(blocks.num_runs[q, kind])):
                start, stop = blocks.runs[q, kind, :, run].tolist()
                assert start < stop
                assert not walked[q, start:stop].any()
                walked[q, start:stop] = True
                if kind == 0:
                    rows = slice(q * QUERY_BLOCK, (q + 1) * QUERY_BLOCK)
                    assert visible[rows, start * KEY_BLOCK : stop * KEY_BLOCK].all()
    assert (walked >= wanted).all()

    num_items, slice_length = blocks.schedule.tolist()
    assert num_items <= blocks.items.shape[1]
    gathered, slots = torch.zeros_like(wanted), []
    for block, start, stop, slot in blocks.items[:, :num_items].T.tolist():
        assert stop - start <= slice_length
        assert not gathered[start:stop, block].any()
        gathered[start:stop, block] = True
        slots += [slot] * (slot >= 0)
    assert (gathered >= wanted).all()
    assert sorted(slots) == list(range(len(slots)))
    assert len(slots) <= num_slots(blocks.num_queries, blocks.num_keys)
    assert set(blocks.items[0, :num_items].tolist()) == set(range(wanted.shape[1]))


def test_trunk_is_cut_evenly() -> None:
    trunk, branches = 256, 60
    total = trunk + branches * QUERY_BLOCK
    index = torch.arange(total)
    branch_end = (index - trunk) // QUERY_BLOCK * QUERY_BLOCK + trunk + QUERY_BLOCK
    ends = torch.where(index < trunk, total, branch_end).to(DEVICE, torch.int32)
    blocks = plan_tree_blocks(ends)
    num_items, slice_length = blocks.schedule.tolist()
    work = (blocks.items[2] - blocks.items[1])[:num_items]
    assert slice_length == max(LEAST_SLICE, -(-int(work.sum()) // SLICES))
    assert int(work.max()) == slice_length
    assert (
        blocks.slices[0, : trunk // KEY_BLOCK].tolist()
        == [-(-(branches + 2) // slice_length)] * 2 + [-(-(branches + 1) // slice_length)] * 2
    )
    assert (blocks.slices[0, trunk // KEY_BLOCK :] == 1).all()
