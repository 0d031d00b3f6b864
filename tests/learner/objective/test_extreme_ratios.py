"""Log-probabilities that have nothing to do with each other: no loss and no estimator leaves the finite."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from trieline.learner.batch.sequences import ScoredSequence
from trieline.learner.batch.states import trie_episodes
from trieline.learner.batch.trie import build_trie
from trieline.learner.batch.vtrace import vtrace_on_trie
from trieline.learner.objective.kl import kl_penalty
from trieline.learner.objective.pack_loss import POLICY_LOSSES
from trieline.learner.objective.policy_loss import TokenColumns
from trieline.learner.objective_config import MAX_RATIO, ObjectiveConfig

LOG_RATIOS = [0.0, 0.3, -0.3, 1.0, 4.0, -4.0, 20.0, -20.0, 88.0, 89.0, -89.0, 710.0, -710.0, 1e4, -1e4]


def columns(log_ratios: list[float], advantage: float, dtype: torch.dtype) -> TokenColumns:
    logprobs = torch.tensor([min(r, 0.0) for r in log_ratios], dtype=dtype, requires_grad=True)
    behavior = torch.tensor([min(-r, 0.0) for r in log_ratios], dtype=dtype)
    return TokenColumns(
        logprobs=logprobs, behavior_logprobs=behavior, advantages=torch.full_like(behavior, advantage)
    )


def gradient(losses: Tensor, logprobs: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(losses.sum(), logprobs)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("loss", sorted(POLICY_LOSSES))
def test_gradients_of_losses_are_bounded(loss: str, advantage: float, dtype: torch.dtype) -> None:
    given = columns(LOG_RATIOS, advantage, dtype)
    result = POLICY_LOSSES[loss](given, ObjectiveConfig(loss=loss))  # type: ignore[arg-type]
    assert torch.isfinite(result.losses).all()
    found = gradient(result.losses, given.logprobs)
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 1.001 * MAX_RATIO


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_ratio_of_ppo_is_what_it_was_below_the_bound(dtype: torch.dtype) -> None:
    given = columns([-1.0, 0.1, 0.5, 4.0, 20.0], -1.0, dtype)
    result = POLICY_LOSSES["ppo_clip"](given, ObjectiveConfig())
    expected = torch.tensor([0.8, math.exp(0.1), math.exp(0.5), math.exp(4.0), MAX_RATIO], dtype=dtype)
    torch.testing.assert_close(result.losses.detach(), expected)
    slopes = torch.tensor([0.0, math.exp(0.1), math.exp(0.5), math.exp(4.0), 0.0], dtype=dtype)
    torch.testing.assert_close(gradient(result.losses, given.logprobs), slopes)


@pytest.mark.parametrize(("advantage", "clipped"), [(-2.0, [0, 0, 1, 1]), (2.0, [0, 0, 0, 0])])
def test_dual_clip_bounds_negative_advantages_alone(advantage: float, clipped: list[int]) -> None:
    given = columns([0.0, 1.0, 1.2, 20.0], advantage, torch.float64)
    plain = POLICY_LOSSES["ppo_clip"](given, ObjectiveConfig())
    dual = POLICY_LOSSES["ppo_clip"](given, ObjectiveConfig(dual_clip=3.0))
    assert dual.metrics["clip_ratio/dual"].tolist() == [bool(c) for c in clipped]
    kept = ~dual.metrics["clip_ratio/dual"]
    assert torch.equal(dual.losses[kept], plain.losses[kept])
    assert dual.losses[~kept].tolist() == [-3.0 * advantage] * sum(clipped)
    assert gradient(dual.losses, given.logprobs)[~kept].tolist() == [0.0] * sum(clipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradients_of_kl_are_finite(estimator: str, dtype: torch.dtype) -> None:
    given = columns(LOG_RATIOS, 0.0, dtype)
    kl = kl_penalty(given.logprobs, given.behavior_logprobs, estimator)  # type: ignore[arg-type]
    assert torch.isfinite(kl).all()
    found = gradient(kl, given.logprobs)
    assert torch.isfinite(found).all()
    signs = torch.sign(torch.tensor(LOG_RATIOS, dtype=dtype))
    assert torch.equal(torch.sign(found), signs), "it pulls back from however far away"


def test_k3_is_k3_below_the_bound() -> None:
    given = columns([-4.0, 0.0, 2.0], 0.0, torch.float64)
    kl = kl_penalty(given.logprobs, given.behavior_logprobs, "k3")
    expected = [math.exp(4) - 1 - 4, 0.0, math.exp(-2) - 1 + 2]
    assert kl.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("log_ratio", LOG_RATIOS)
def test_v_trace_is_finite(log_ratio: float) -> None:
    sequence = ScoredSequence(
        tree=0,
        leaf=0,
        token_ids=np.array([1, 2, 3], np.int32),
        trained=np.array([False, True, True]),
        behavior_logprobs=np.full(3, min(-log_ratio, 0.0), np.float32),
        entropies=np.zeros(3, np.float32),
        policy_versions=np.zeros(3, np.int32),
        rewards=np.array([0, 0, 1], np.float32),
        terminated=True,
        nodes=np.array([0, 1, 1], np.int32),
    )
    trie = build_trie([sequence.token_ids])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns = vtrace_on_trie(
            trie_episodes(trie, [sequence]),
            np.full(3, 0.5),
            np.full(3, min(log_ratio, 0.0)),
            gamma=1.0,
            lam=1.0,
            rho_bar=MAX_RATIO,
            c_bar=MAX_RATIO,
        )
    assert np.isfinite(returns.vs).all()
    assert np.isfinite(returns.pg_advantages).all()
