"""The validator of preorders, and what the log says where no GPU is."""

import logging

import pytest
import torch

from trieline.kernels.gpu.availability import _say_once
from trieline.kernels.preorder import check_preorder
from trieline.kernels.tree_plan import plan_tree_attention


def test_tries_and_padding_pass() -> None:
    for ends in ([], [1], [5, 4, 3, 4, 5], [3, 2, 3, 5, 5], [2, 2, 2, 3], [4, 1, 3, 4]):
        check_preorder(torch.tensor(ends, dtype=torch.int32))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([4, 0, 3, 4], "token 1: expected a subtree_end from 1 to 4, got 0"),
        (
            [4, 3, 4, 5],
            "token 2: expected a subtree_end of at most 3, that of token 1 which it is under, got 4",
        ),
        ([3, 2, 4], "token 2: expected a subtree_end from 2 to 3, got 4"),
        ([2.0, 2.0], "expected subtree_end"),
    ],
)
def test_the_first_bad_token_is_named(ends: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_preorder(torch.tensor(ends))


def test_the_cpu_path_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="trieline.kernels.gpu.availability"):
        for _ in range(2):
            plan_tree_attention(torch.tensor([2, 2], dtype=torch.int32), dtype=torch.float32)
    assert [r.getMessage() for r in caplog.records] == [
        "no GPU: tree attention and token log-probabilities run on the CPU"
    ]
