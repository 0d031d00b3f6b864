"""Groups over ranks: the same sum as alone, and no rank with much more than its part."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.spreading import in_rounds, spread
from trieline.learner.objective_config import ObjectiveConfig


@settings(max_examples=60, deadline=None, derandomize=True)
@given(costs=st.lists(st.integers(1, 50), max_size=7), num_ranks=st.integers(1, 3))
def test_the_most_loaded_rank_has_little(costs: list[int], num_ranks: int) -> None:
    shares = spread(costs, num_ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)
    best = min(
        max(sum(c for c, r in zip(costs, ranks, strict=True) if r == rank) for rank in range(num_ranks))
        for ranks in itertools.product(range(num_ranks), repeat=len(costs))
    )
    assert max(sum(costs[i] for i in share) for share in shares) <= best * (4 / 3 - 1 / (3 * num_ranks))


def test_one_rank_has_everything_in_order() -> None:
    assert spread([3.0, 9.0, 1.0], 1) == [[0, 1, 2]]
    assert spread([], 2) == [[], []]


def test_rounds_put_the_expensive_packs_side_by_side() -> None:
    assert in_rounds([[1.0, 7.0, 3.0], [8.0], []]) == [[1, 2, 0], [0, None, None], [None, None, None]]
    assert in_rounds([[], []]) == [[], []]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 9])
def test_a_batch_is_the_same_over_any_number_of_ranks(num_ranks: int) -> None:
    rng = np.random.default_rng(4)
    trees = [random_tree(rng, vocab_size=40, task_id=str(i)) for i in range(6)]
    config = ObjectiveConfig(norm="rollout", entropy_scaling="sequence", skip_zero_std=False)
    alone = prepare_batch(trees, config, max_tokens=60)
    batch = prepare_batch(trees, config, max_tokens=60, num_ranks=num_ranks, pair_cost=0.1)
    assert [i for share in batch.shares for i in share] == list(range(len(batch.packs)))
    assert len(batch.shares) == num_ranks
    for name in ("weights", "scales", "advantages", "behavior_logprobs"):
        expected, found = (
            np.sort(np.concatenate([getattr(p, name) for p in b.packs])) for b in (alone, batch)
        )
        assert np.array_equal(found, expected), name
    assert batch.metrics["batch/sequence_tokens"] == alone.metrics["batch/sequence_tokens"]
