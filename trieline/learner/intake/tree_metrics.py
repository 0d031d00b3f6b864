"""The figures of one step that only its trees can tell: rewards, failures, ages, lengths, a sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trieline.common.tally import Tally
from trieline.learner.intake.staleness import staleness
from trieline.wire.messages import Assignment
from trieline.wire.tree import SCORED, TrajectoryTree

SAMPLE_CHARACTERS = 500
# Rewards are sums of floats: an episode counts as passed from here on.
PASS_RETURN = 1.0 - 1e-6
LOST_WORKER = "lost_worker"
"""The cause of the rollouts of tasks that took their workers down."""


def batch_metrics(trees: Sequence[TrajectoryTree], *, policy_version: int) -> Tally:
    """Figures of the trees that a step trains on."""
    metrics = Tally()
    for tree in trees:
        age = staleness(tree, policy_version)
        metrics.add_mean("off_policy/staleness/mean", age, 1)
        metrics.add_maximum("off_policy/staleness/max", age)
        _add_versions(metrics, tree, policy_version)
        _add_rewards(metrics, tree)
        _add_completions(metrics, tree)
    return metrics


def failure_metrics(trees: Sequence[TrajectoryTree], given_up: Sequence[Assignment] = ()) -> Tally:
    """`errored_rollouts/{env}/{cause}` over all trees that came, and over the tasks that will bring none."""
    metrics = Tally()
    for tree in trees:
        for cause in broken_episodes(tree):
            metrics.add_total(f"errored_rollouts/{tree.env_id}/{cause}", 1)
    for task in given_up:
        metrics.add_total(f"errored_rollouts/{task.env_id}/{LOST_WORKER}", task.group_size)
    return metrics


def level_metrics(trees: Sequence[TrajectoryTree]) -> Tally:
    """`levels/{env}/{level}/...` over all trees that came: scored episodes, tokens, who passed.

    What fills a batch up or is too old to train on was played, too.
    """
    metrics = Tally()
    for tree in trees:
        returns, name = scored_returns(tree), f"levels/{tree.env_id}/{tree.level}"
        solved = sum(value >= PASS_RETURN for value in returns)
        metrics.add_mean(f"{name}/success", solved, len(returns))
        metrics.add_total(f"{name}/episodes", len(returns))
        metrics.add_total(f"{name}/tokens", sum(scored_lengths(tree)))
    return metrics


def scored_returns(tree: TrajectoryTree) -> list[float]:
    """Undiscounted returns of the scored episodes."""
    return [tree.episode_return(leaves) for leaves in tree.scored_episodes()]


def scored_lengths(tree: TrajectoryTree) -> list[int]:
    """Sampled tokens of the scored episodes, each once, in all their context windows and sub-agents."""
    sampled = np.where(tree.sampled, np.diff(tree.node_offsets), 0)
    paths = [
        sorted({n for leaf in leaves for n in tree.path(int(tree.leaf_nodes[leaf]))})
        for leaves in tree.scored_episodes()
    ]
    return [int(sampled[nodes].sum()) for nodes in paths]


def broken_episodes(tree: TrajectoryTree) -> list[str]:
    """The cause of each episode that does not count."""
    causes = [tree.leaf_causes[leaves[-1]] for leaves in tree.episodes()]
    return [cause for cause in causes if cause != SCORED]


def text_sample(trees: Sequence[TrajectoryTree], step: int) -> dict[str, Any] | None:
    """A task and an answer for the live view, from another tree at every step."""
    told = [tree for tree in trees if tree.info.get("reply")]
    if not told:
        return None
    tree = told[step % len(told)]
    returns = scored_returns(tree)
    return {
        "env": tree.env_id,
        "prompt": tree.info.get("prompt", "")[-SAMPLE_CHARACTERS:],
        "reply": tree.info["reply"][:SAMPLE_CHARACTERS],
        "reward": round(returns[0], 4) if returns else None,
    }


def num_sampled_tokens(trees: Sequence[TrajectoryTree]) -> int:
    """Tokens that the policy wrote, each once however many sequences go through it."""
    return sum(int(np.diff(tree.node_offsets)[tree.sampled].sum()) for tree in trees)


def _add_versions(metrics: Tally, tree: TrajectoryTree, policy_version: int) -> None:
    """How far behind each sampled token is, and the shares of replies and sequences of several versions."""
    # Of each node and all that comes before it.
    seen: list[frozenset[int]] = []
    for node, parent in enumerate(tree.parents.tolist()):
        before = seen[parent] if parent >= 0 else frozenset[int]()
        if not tree.sampled[node]:
            seen.append(before)
            continue
        versions = tree.policy_versions[tree.node_tokens(node)]
        behind = np.maximum(policy_version - versions, 0)
        metrics.add_mean("off_policy/token_staleness/mean", int(behind.sum()), len(versions))
        own = frozenset(versions.tolist())
        metrics.add_mean("off_policy/mixed_replies", len(own) > 1, 1)
        seen.append(before | own)
    for leaf in tree.leaf_nodes.tolist():
        metrics.add_mean("off_policy/mixed_sequences", len(seen[leaf]) > 1, 1)


def _add_rewards(metrics: Tally, tree: TrajectoryTree) -> None:
    returns = scored_returns(tree)
    total, count = sum(returns), len(returns)
    metrics.add_mean(f"reward/{tree.env_id}/mean", total, count)
    metrics.add_mean("reward/mean", total, count)
    metrics.add_deviation("reward/std", count, total, sum(value * value for value in returns))


def _add_completions(metrics: Tally, tree: TrajectoryTree) -> None:
    """Of scored episodes: sampled tokens, and the share that was cut off instead of ending by itself."""
    ends = [leaves[-1] for leaves in tree.scored_episodes()]
    for leaf, length in zip(ends, scored_lengths(tree), strict=True):
        metrics.add_mean("completions/mean_length", length, 1)
        metrics.add_maximum("completions/max_length", length)
        metrics.add_mean("completions/clipped_ratio", not tree.leaf_terminated[leaf], 1)
