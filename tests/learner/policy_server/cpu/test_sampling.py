from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.kernels.token_logprob import token_logprob
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled, uniforms
from trieline.learner.policy_server.cpu.sampling import sample
from trieline.learner.policy_server.errors import NonFiniteLogitsError


def how(rows: int, **settings: Any) -> RowSampling:
    def column(name: str, default: float, dtype: type) -> Any:
        return np.broadcast_to(np.asarray(settings.get(name, default), dtype), rows).copy()

    return RowSampling(
        temperature=column("temperature", 1.0, np.float64),
        top_p=column("top_p", 1.0, np.float64),
        top_k=column("top_k", 0, np.int64),
        seed=column("seed", 0, np.uint64),
        position=column("position", 0, np.uint64),
    )


def row_of(settings: RowSampling, row: int) -> RowSampling:
    return RowSampling(**{name: getattr(settings, name)[row : row + 1] for name in RowSampling.__slots__})


def draws(logits_V: torch.Tensor, count: int, **settings: Any) -> Sampled:
    """Many draws from one distribution, with seeds 0, 1, ..."""
    return sample(logits_V.expand(count, -1), how(count, seed=np.arange(count), **settings))


def slow_distribution(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> Any:
    """The definition, token by token in float64."""
    values = logits.double().numpy() / temperature
    p = np.exp(values - values.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    kept = order[: top_k or len(p)]
    total, mass, chosen = p[kept].sum(), 0.0, []
    for token in kept:
        if mass >= top_p * total:
            break
        chosen.append(token)
        mass += p[token]
    cut = np.zeros_like(p)
    cut[chosen] = p[chosen] / p[chosen].sum()
    return cut


CASES = [
    (1.0, 0, 1.0),
    (0.7, 0, 1.0),
    (1.5, 0, 1.0),
    (1.0, 5, 1.0),
    (1.0, 0, 0.8),
    (0.8, 20, 0.9),
    (1.0, 1, 1.0),
    (1.0, 0, 1e-9),
    (1.0, 1800, 0.5),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
@pytest.mark.parametrize("vocab", [3, 129, 700, 2000])
def test_draws_follow_the_distribution_and_report_it(
    vocab: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = 2.0 * torch.randn(vocab, generator=torch.Generator().manual_seed(vocab))
    expected = slow_distribution(logits, temperature, top_k, top_p)
    count = 4_000
    sampled = draws(logits, count, temperature=temperature, top_k=top_k, top_p=top_p)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(sampled.logprobs, np.log(expected)[sampled.token_ids], atol=2e-5)
    entropy = -sum(p * np.log(p) for p in expected if p > 0)
    np.testing.assert_allclose(sampled.entropies, entropy, atol=2e-5)
    observed = np.bincount(sampled.token_ids, minlength=vocab)
    assert not observed[expected == 0].any()
    # Chi-square over the tokens that are common enough: mean is its degrees of freedom, variance twice that.
    common = expected * count >= 5
    chi_square = ((observed - expected * count)[common] ** 2 / (expected * count)[common]).sum()
    freedom = max(int(common.sum()) - 1, 1)
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_agrees_with_what_training_computes_from_the_same_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 32, generator=generator).to(torch.bfloat16) for n in (40, 5000))
    sampled = sample(hidden @ weight.T, how(40, seed=np.arange(40), temperature=2.0))
    chosen, entropies = token_logprob(
        hidden, weight, torch.arange(40), torch.from_numpy(sampled.token_ids), temperature=2.0
    )
    np.testing.assert_allclose(sampled.logprobs, chosen.numpy(), atol=1e-5)
    np.testing.assert_allclose(sampled.entropies, entropies.numpy(), atol=1e-5)


def test_temperature_zero_takes_the_largest_with_the_figures_of_temperature_one() -> None:
    logits = torch.randn(7, 1000, generator=torch.Generator().manual_seed(2))
    sampled = sample(logits, how(7, temperature=0.0, top_k=3, seed=np.arange(7)))
    logprobs = torch.log_softmax(logits, -1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    np.testing.assert_array_equal(sampled.token_ids, logits.argmax(-1).numpy())
    np.testing.assert_allclose(sampled.logprobs, logprobs.amax(-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(sampled.entropies, entropies.numpy(), atol=1e-5)


def test_a_row_is_drawn_alike_whatever_it_is_batched_with() -> None:
    logits = torch.randn(50, 20_000, generator=torch.Generator().manual_seed(3))
    settings = how(50, seed=np.arange(50) * 977, position=np.arange(50), temperature=[1.0, 0.0] * 25)
    settings.top_p[::3] = 0.9
    together = sample(logits, settings)
    for row in range(50):
        alone = sample(logits[row : row + 1], row_of(settings, row))
        assert alone.token_ids[0] == together.token_ids[row]


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(4))
    sampled = sample(logits, how(4, temperature=temperature))
    assert np.isfinite(sampled.logprobs).all()
    assert np.isfinite(sampled.entropies).all()
    if temperature < 1:
        np.testing.assert_array_equal(sampled.token_ids, logits.argmax(-1).numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_logits_are_refused(bad: float) -> None:
    logits = torch.zeros(3, 200)
    logits[1, 7] = bad
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinity"):
        sample(logits, how(3))


def test_a_masked_logit_is_never_drawn() -> None:
    logits = torch.zeros(200)
    logits[::2] = float("-inf")
    sampled = draws(logits, 1000)
    assert (sampled.token_ids % 2 == 1).all()
    np.testing.assert_allclose(sampled.entropies, np.log(100), atol=1e-5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**63))
def test_uniforms_are_in_range_and_differ_by_seed_and_position(seed: int, position: int) -> None:
    seeds = np.array([seed, seed, (seed + 1) % 2**64], np.uint64)
    values = uniforms(seeds, np.array([position, position + 1, position], np.uint64))
    assert ((values >= 0) & (values < 1)).all()
    assert len(set(values.tolist())) == 3


def test_uniforms_are_uniform_along_seeds_and_along_positions() -> None:
    many = np.arange(100_000, dtype=np.uint64)
    zero = np.zeros_like(many)
    for values in (uniforms(many, zero), uniforms(zero, many)):
        counts = np.histogram(values, 50, (0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 49 + 5 * np.sqrt(98)
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
