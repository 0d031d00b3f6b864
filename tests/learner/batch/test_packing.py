import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.common.arrays import Int32
from trieline.learner.batch.packing import pack_groups


def prompts(count: int) -> list[Int32]:
    """Nothing in common."""
    return [np.array([g], np.int32) for g in range(count)]


@settings(deadline=None)
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


def test_a_trie_beyond_the_limit_runs_alone() -> None:
    assert pack_groups([10, 500, 20], prompts(3), max_tokens=100) == [[1], [0, 2]]


def test_fewer_bins_than_first_fit_finds() -> None:
    # Largest first, 45 + 35 fills a bin that then has no room for 25, and so on: three bins. Two are enough.
    sizes = [45, 35, 25, 30, 30, 35]
    bins = pack_groups(sizes, prompts(6), max_tokens=100)
    assert len(bins) == 2


def fewest_bins(sizes: list[int], shared: int, max_tokens: int) -> int:
    """By trying every partition of groups that all share `shared` tokens."""
    best = len(sizes)
    for labels in itertools.product(range(len(sizes)), repeat=len(sizes)):
        members = [[s for s, own in zip(sizes, labels, strict=True) if own == b] for b in set(labels)]
        tokens = [sum(m) - shared * (len(m) - 1) for m in members]
        if all(t <= max_tokens or len(m) == 1 for t, m in zip(tokens, members, strict=True)):
            best = min(best, len(members))
    return best


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(20, 110), min_size=1, max_size=5), shared=st.sampled_from([0, 15]))
def test_no_packing_of_a_few_groups_has_fewer_bins(sizes: list[int], shared: int) -> None:
    common = [np.append(np.arange(shared), 100 + g).astype(np.int32) for g in range(len(sizes))]
    bins = pack_groups(sizes, common, max_tokens=100)
    assert len(bins) == fewest_bins(sizes, shared, 100)


def test_no_groups_no_bins() -> None:
    assert pack_groups([], [], max_tokens=100) == []
