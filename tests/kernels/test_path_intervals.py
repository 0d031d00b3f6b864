"""The intervals of keys that a query sees against the dense mask."""

import pytest
import torch
from torch import Tensor

from tests.kernels.gpu.forests import forest
from trieline.kernels.path_intervals import path_intervals
from trieline.kernels.tree_attention import visible_pairs


def dense(intervals: Tensor) -> Tensor:
    """[T, T] what a kernel makes of them; fails where it would refuse them."""
    endpoints = intervals.T.tolist()
    keys = torch.arange(len(endpoints))
    rows = []
    for query in endpoints:
        assert query == sorted(query)
        assert 0 <= query[0] <= query[-1] <= len(endpoints)
        seen = keys < query[0]
        for begin, end in zip(query[1::2], query[2::2], strict=True):
            seen |= (begin <= keys) & (keys < end)
        rows.append(seen)
    return torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.bool)


@pytest.mark.parametrize("window", [0, 1, 2, 9, 40, 1000])
@pytest.mark.parametrize("fork", [0.0, 0.03, 0.3, 0.9])
@pytest.mark.parametrize(("tokens", "padding"), [(1, 0), (150, 0), (97, 7)])
def test_are_the_mask(tokens: int, padding: int, fork: float, window: int) -> None:
    ends = forest(tokens, seed=tokens, fork=fork, padding=padding).cpu()
    intervals = path_intervals(ends, window=window)
    assert intervals.dtype == torch.int32
    assert torch.equal(dense(intervals), visible_pairs(ends, window))


def test_a_path_has_one_interval_and_each_branch_one_more() -> None:
    assert path_intervals(torch.tensor([3, 3, 3])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]
    # 0 - 1 - 2, 3 below 1, 4 below 0, and the root 5.
    ends = torch.tensor([5, 4, 3, 4, 5, 6])
    assert path_intervals(ends).T.tolist() == [
        [0, 0, 1, 1, 1],
        [0, 0, 2, 2, 2],
        [0, 0, 3, 3, 3],
        [0, 0, 2, 3, 4],
        [0, 0, 1, 4, 5],
        [0, 5, 6, 6, 6],
    ]


def test_no_tokens_have_none() -> None:
    assert path_intervals(torch.zeros(0, dtype=torch.int32)).shape == (1, 0)
