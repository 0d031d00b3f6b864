"""Which groups teach something: returns that differ by rounding alone are the same."""

import numpy as np
import pytest
from msgspec.structs import replace

from trieline.learner.batch.advantages import group_advantages, return_scale
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.groups import teaches, trained_groups
from trieline.learner.batch.sequences import scored_sequences
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import SCORED, TrajectoryTree

# Four rollouts of two turns each: 0.3 at once, or 0.1 and 0.2, in the float32 in which rewards travel.
ROUNDED = [(0.3, 0.0), (0.1, 0.2), (0.0, 0.3), (0.2, 0.1)]
CANCELLED = [(1e3, -1e3), (0.0, 1e-5), (0.0, 0.0), (0.0, 0.0)]
APART = [(0.3, 0.0), (0.1, 0.2), (0.0, 0.3), (0.2, 0.1001)]


def tree(rewards: list[tuple[float, float]], *, scored: bool = True, tokens: bool = True) -> TrajectoryTree:
    """A prompt, and for each rollout two nodes of one sampled token each."""
    nodes = 1 + 2 * len(rewards)
    return TrajectoryTree(
        env_id="test/Two-v0",
        task_id="t",
        parents=np.array([-1, *(p for i in range(len(rewards)) for p in (0, 2 * i + 1))], np.int32),
        node_offsets=np.arange(nodes + 1, dtype=np.int32),
        sampled=np.array([False, *[tokens] * (nodes - 1)]),
        rewards=np.array([0.0, *(r for pair in rewards for r in pair)], np.float32),
        fork_causes=("", *["rollout", ""] * len(rewards)),
        token_ids=np.arange(nodes, dtype=np.int32),
        behavior_logprobs=np.full(nodes, -1.0, np.float32),
        entropies=np.ones(nodes, np.float32),
        policy_versions=np.array([-1, *[0] * (nodes - 1)], np.int32),
        leaf_nodes=np.arange(2, nodes, 2, dtype=np.int32),
        leaf_terminated=np.ones(len(rewards), np.bool_),
        leaf_causes=((SCORED if scored else "sandbox"),) * len(rewards),
    )


@pytest.mark.parametrize("rewards", [ROUNDED, CANCELLED])
@pytest.mark.parametrize("advantage", ["group", "tree"])
@pytest.mark.parametrize("scale_rewards", ["none", "group", "batch"])
def test_returns_that_differ_by_rounding_are_the_same(
    rewards: list[tuple[float, float]], advantage: str, scale_rewards: str
) -> None:
    given = tree(rewards)
    config = ObjectiveConfig(advantage=advantage, scale_rewards=scale_rewards)  # type: ignore[arg-type]
    batch = prepare_batch([given], config, max_tokens=100)
    assert batch.packs == ()
    assert batch.metrics["frac_reward_zero_std"] == 1
    assert not teaches(given, config)
    kept = ObjectiveConfig(advantage=advantage, scale_rewards=scale_rewards, skip_zero_std=False)  # type: ignore[arg-type]
    (group,), num_equal = trained_groups(scored_sequences([given]), kept)
    assert num_equal == 1
    assert all(not advantages.any() for advantages in group.advantages)
    assert teaches(given, kept)


def test_returns_that_differ_are_not() -> None:
    (group,), num_equal = trained_groups(scored_sequences([tree(APART)]), ObjectiveConfig())
    assert num_equal == 0
    assert group.advantages[3][0] == pytest.approx(1e-4, rel=1e-3)
    assert teaches(tree(APART), ObjectiveConfig())


def test_rounding_is_not_blown_up() -> None:
    returns = np.array([sum(float(np.float32(r)) for r in pair) for pair in ROUNDED])
    assert np.ptp(returns) > 0
    assert not (group_advantages(returns) * return_scale(returns)).any()


def test_what_has_no_scored_or_no_sampled_tokens_teaches_nothing() -> None:
    config = ObjectiveConfig(loss="sft")
    assert teaches(tree(ROUNDED), config)
    assert not teaches(tree(APART, scored=False), config)
    assert not teaches(tree(APART, tokens=False), config)


@pytest.mark.parametrize("advantage", ["group", "tree"])
def test_windows_get_the_advantage_of_their_episode(advantage: str) -> None:
    """Three rollouts, of which the first goes on in the window that would be the second one."""
    plain = tree([(1.0, 0.0), (0.0, 0.5), (0.0, 0.25)])
    joined = replace(
        plain,
        edge_sources=np.array([2], np.int32),
        edge_targets=np.array([3], np.int32),
        edge_kinds=("continues",),
    )
    config = ObjectiveConfig(advantage=advantage, scale_rewards="none")  # type: ignore[arg-type]
    (group,), _ = trained_groups(scored_sequences([joined]), config)
    whole, other = 1.5, 0.25
    if advantage == "group":
        expected = [whole - other, whole - other, other - whole]
    else:
        mean = (whole + other) / 2
        expected = [whole - mean, whole - mean, other - mean]
    assert [set(np.round(a, 12).tolist()) for a in group.advantages] == [{round(e, 12)} for e in expected]


def test_deviations_are_those_of_episodes() -> None:
    joined = replace(
        tree([(1.0, 0.0), (0.0, 0.5), (0.0, 0.25)]),
        edge_sources=np.array([2], np.int32),
        edge_targets=np.array([3], np.int32),
        edge_kinds=("continues",),
    )
    for scale_rewards in ("group", "batch"):
        config = ObjectiveConfig(advantage="group", scale_rewards=scale_rewards)
        (group,), _ = trained_groups(scored_sequences([joined]), config)
        expected = 1.25 * return_scale(np.array([1.5, 0.25]))
        assert group.advantages[0] == pytest.approx([expected] * 2)


def test_an_episode_of_windows_alone_teaches_nothing() -> None:
    joined = replace(
        tree([(1.0, 0.0), (0.0, 0.5)]),
        edge_sources=np.array([2], np.int32),
        edge_targets=np.array([3], np.int32),
        edge_kinds=("continues",),
    )
    assert not teaches(joined, ObjectiveConfig())
