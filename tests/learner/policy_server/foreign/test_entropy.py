"""The estimated entropy against exact ones."""

import numpy as np
import pytest

from tests.learner.policy_server.foreign.fake_engine import VOCAB
from trieline.common.arrays import Float64
from trieline.learner.policy_server.foreign.entropy import estimated_entropies


def zipf(power: float, vocab: int = 5000) -> Float64:
    p = np.arange(1, vocab + 1) ** -power
    logprobs: Float64 = np.log(p / p.sum())
    return logprobs


def exact(logprobs: Float64) -> float:
    return float(-(np.exp(logprobs) * logprobs).sum())


@pytest.mark.parametrize("power", [1.5, 2.0, 2.5, 4.0])
def test_it_lies_between_its_bounds_and_near_the_truth(power: float) -> None:
    logprobs, k = zipf(power), 20
    top = logprobs[:k]
    rest = 1 - np.exp(top).sum()
    head = -(np.exp(top) * top).sum()
    least, most = head - rest * top[-1], head + rest * np.log((len(logprobs) - k) / rest)
    (found,) = estimated_entropies(top[None], len(logprobs))
    assert least <= found <= most
    assert least <= exact(logprobs) <= most
    assert found == pytest.approx(exact(logprobs), abs=0.06 * (1 + exact(logprobs)))


def test_it_is_exact_where_all_is_told() -> None:
    logprobs = np.log([0.5, 0.25, 0.25])
    whole = np.array([[*logprobs, -9999.0]])
    np.testing.assert_allclose(estimated_entropies(whole, VOCAB), exact(logprobs), atol=1e-6)
    # In any order, and also where all but the certain one are impossible.
    np.testing.assert_allclose(estimated_entropies(whole[:, ::-1], VOCAB), exact(logprobs), atol=1e-6)
    assert estimated_entropies(np.array([[0.0, -9999.0]]), VOCAB).tolist() == [0.0]


def test_equal_shares_are_exact_but_for_the_weight() -> None:
    # Of equal probabilities both bounds are the truth.
    logprobs = np.full((1, 10), -np.log(1000))
    np.testing.assert_allclose(estimated_entropies(logprobs, 1000), np.log(1000), rtol=1e-6)
