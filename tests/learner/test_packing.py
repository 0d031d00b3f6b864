import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.actors.wire.tree import Int32
from trieline.learner.packing import pack_groups


def prompts(count: int) -> list[Int32]:
    """Nothing in common."""
    return [np.array([g], np.int32) for g in range(count)]


@given(st.lists(st.integers(1, 120), max_size=30))
def test_every_group_once_and_bins_within_the_limit(sizes: list[int]) -> None:
    bins = pack_groups(sizes, prompts(len(sizes)), max_tokens=100)
    assert sorted(g for members in bins for g in members) == list(range(len(sizes)))
    for members in bins:
        assert len(members) == 1 or sum(sizes[g] for g in members) <= 100


def test_first_fit_decreasing_fills_bins() -> None:
    assert pack_groups([40, 60, 50, 50], prompts(4), max_tokens=100) == [[0, 1], [2, 3]]


def test_what_groups_share_is_counted_once() -> None:
    shared = [np.array([*range(50), g], np.int32) for g in range(3)]
    # 60 + 10 + 10 tokens, though the sizes add up to 180.
    assert pack_groups([60, 60, 60], shared, max_tokens=80) == [[0, 1, 2]]


def test_a_group_goes_where_it_shares_most() -> None:
    a, b = np.arange(30, dtype=np.int32), np.arange(100, 130, dtype=np.int32)
    assert pack_groups([80, 70, 40, 35], [a, b, b, a], max_tokens=100) == [[0, 3], [1, 2]]


def test_a_trie_beyond_the_limit_runs_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pack_groups([10, 500, 20], prompts(3), max_tokens=100) == [[1], [0, 2]]
    assert "a trie of 500 tokens exceeds max_tokens = 100" in caplog.text
