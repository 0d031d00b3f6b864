"""V-trace: on a path against `reference_vtrace`, and what is particular to a tree by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from trieline.learner.batch.sequences import GOES_ON, TERMINATED, TRUNCATED, ScoredSequence
from trieline.learner.batch.states import trie_episodes
from trieline.learner.batch.trie import build_trie
from trieline.learner.batch.vtrace import VTraceReturns, reference_vtrace, vtrace_on_trie

Float64 = npt.NDArray[np.float64]

CLIPS = {"gamma": 0.95, "lam": 0.9, "rho_bar": 1.4, "c_bar": 0.9}


def sequence(
    ids: list[int],
    *,
    mu: list[float] | None = None,
    rewards: list[float] | None = None,
    context: int = 1,
    terminated: bool = True,
) -> ScoredSequence:
    length = len(ids)
    return ScoredSequence(
        tree=0,
        leaf=0,
        token_ids=np.array(ids, np.int32),
        trained=np.arange(length) >= context,
        behavior_logprobs=np.array(mu if mu is not None else [0.0] * length, np.float32),
        entropies=np.zeros(length, np.float32),
        policy_versions=np.zeros(length, np.int32),
        rewards=np.array(rewards if rewards is not None else [0.0] * length, np.float32),
        terminated=terminated,
    )


def run(
    sequences: list[ScoredSequence], values: Float64, logprobs: Float64, **clips: float
) -> tuple[VTraceReturns, list[npt.NDArray[np.int32]]]:
    trie = build_trie([s.token_ids for s in sequences])
    returns = vtrace_on_trie(trie_episodes(trie, sequences), values, logprobs, **(CLIPS | clips))
    return returns, list(trie.paths)


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_a_path_is_the_sequence_v_trace(terminated: bool, length: int) -> None:
    rng = np.random.default_rng(length)
    # Token 0 is the prompt; states 0..length-1 act, token length ends.
    values, rewards = rng.normal(size=length + 1), rng.normal(size=length + 1).astype(np.float32)
    mu = -rng.exponential(size=length + 1).astype(np.float32)
    # Ratios on both sides of every clip.
    log_rhos = np.linspace(-1.5, 1.5, length)
    logprobs = np.append(0.0, mu[1:] + log_rhos)
    ids = list(range(length + 1))
    s = sequence(ids, mu=mu.tolist(), rewards=rewards.tolist(), terminated=terminated)
    returns, _ = run([s], values, logprobs)
    bootstrap = 0.0 if terminated else float(values[-1])
    vs, pg_advantages = reference_vtrace(
        values[:-1], rewards[1:].astype(np.float64), log_rhos, bootstrap, **CLIPS
    )
    np.testing.assert_allclose(returns.vs[:-1], vs, rtol=1e-6, atol=1e-6)
    does = s.endings()
    got = returns.pg_advantages[does, np.arange(length + 1)][1:]
    np.testing.assert_allclose(got, pg_advantages, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(returns.rho_clipped[1:], log_rhos > np.log(CLIPS["rho_bar"]))


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_path_with_tool_outputs_is_that_of_its_actions(terminated: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    acts = np.append(False, rng.random(30) < 0.6)
    acts[-1] |= not acts[1:].any()
    values, logprobs = rng.normal(size=31), -rng.exponential(size=31)
    mu = -rng.exponential(size=31).astype(np.float32)
    rewards = np.where(acts, rng.normal(size=31), 0).astype(np.float32)
    s = sequence(list(range(31)), mu=mu.tolist(), rewards=rewards.tolist(), terminated=terminated)
    s.trained[:] = acts
    returns, _ = run([s], values, logprobs)
    actions = np.flatnonzero(acts)
    vs, pg_advantages = reference_vtrace(
        values[actions - 1],
        rewards[actions].astype(np.float64),
        (logprobs - mu)[actions],
        0.0 if terminated else float(values[-1]),
        **CLIPS,
    )
    np.testing.assert_allclose(returns.vs[actions - 1], vs, rtol=1e-6, atol=1e-6)
    got = returns.pg_advantages[s.endings(), np.arange(31)][actions]
    np.testing.assert_allclose(got, pg_advantages, rtol=1e-6, atol=1e-6)


def test_the_reference_by_hand() -> None:
    vs, pg_advantages = reference_vtrace(
        np.array([1.0, 2.0]),
        np.array([0.5, 1.0]),
        np.log([4.0, 0.5]),
        3.0,
        gamma=0.5,
        lam=0.5,
        rho_bar=2.0,
        c_bar=1.0,
    )
    # delta_0 = 2 (0.5 + 0.5 * 2 - 1) = 1, c_0 = 0.5; delta_1 = 0.5 (1 + 0.5 * 3 - 2) = 0.25.
    assert vs.tolist() == pytest.approx([1 + 1 + 0.5 * 0.5 * 0.25, 2 + 0.25])
    assert pg_advantages.tolist() == pytest.approx([0.5 + 0.5 * 2.25 - 1, 1 + 0.5 * 3 - 2])


def test_context_tokens_neither_discount_nor_cut() -> None:
    """A tool's output of any length leaves the targets before it as they are, whatever its values are."""

    def target(observation: int) -> float:
        ids = [0, 1, *range(10, 10 + observation), 2]
        trained = np.array([False, True, *[False] * observation, True])
        s = sequence(ids, rewards=[0.0] * (len(ids) - 1) + [1.0])
        s.trained[:] = trained
        values = np.array([0.3, *[5.0] * observation, 0.2, 0.9])
        if observation == 0:
            values = np.array([0.3, 0.2, 0.9])
        returns, _ = run([s], values, np.zeros(len(ids)))
        return float(returns.vs[0])

    assert target(3) == pytest.approx(target(0), rel=1e-12)
    assert target(30) == pytest.approx(target(0), rel=1e-12)


def test_children_count_by_their_sequences() -> None:
    sequences = [
        sequence([0, 1], rewards=[0, 1]),
        sequence([0, 1], rewards=[0, 0]),
        sequence([0, 2], rewards=[0, 1]),
    ]
    values = np.array([0.1, 7.0, 7.0])
    returns, _ = run(sequences, values, np.zeros(3), gamma=1.0, lam=1.0, c_bar=1.0)
    assert returns.vs[0] == pytest.approx(2 / 3)
    # Both that took token 1 have the advantage of the mean of their rewards.
    assert returns.pg_advantages[TERMINATED].tolist() == pytest.approx([0, 0.5 - 0.1, 1 - 0.1])


def test_a_sequence_that_ends_where_others_go_on_is_a_branch_of_its_own() -> None:
    ends = sequence([0, 1], rewards=[0, 3.0])
    stops = sequence([0, 1], rewards=[0, 0.5], terminated=False)
    goes_on = sequence([0, 1, 2], rewards=[0, 0, 1.0])
    values = np.array([0.2, 0.4, 9.0])
    returns, _ = run([ends, stops, goes_on], values, np.zeros(3), gamma=0.5, lam=1.0, c_bar=1.0)
    assert returns.vs[1] == pytest.approx(1.0)  # of the one that goes on: terminated after its reward
    advantages = {does: float(returns.pg_advantages[does, 1]) for does in (GOES_ON, TERMINATED, TRUNCATED)}
    assert advantages == pytest.approx(
        {
            GOES_ON: 0 + 0.5 * returns.vs[1] - 0.2,
            TERMINATED: 3.0 + 0 - 0.2,
            TRUNCATED: 0.5 + 0.5 * 0.4 - 0.2,
        },
        rel=1e-6,
    )
    assert returns.vs[0] == pytest.approx((3.0 + (0.5 + 0.5 * 0.4) + 0.5 * 1.0) / 3)


def test_shared_actions_have_the_mean_recorded_logprob() -> None:
    sequences = [sequence([0, 1], mu=[0, -1.0]), sequence([0, 1], mu=[0, -2.0])]
    returns, _ = run(sequences, np.zeros(2), np.array([0.0, -1.5 + np.log(1.39)]))
    assert not returns.rho_clipped[1]
    returns, _ = run(sequences, np.zeros(2), np.array([0.0, -1.5 + np.log(1.41)]))
    assert returns.rho_clipped[1]
