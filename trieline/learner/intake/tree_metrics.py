"""The figures of one step that only its trees can tell: rewards, failures, ages, lengths, a sample."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from trieline.learner.intake.staleness import staleness
from trieline.wire.tree import SCORED, TrajectoryTree

SAMPLE_CHARACTERS = 500


def batch_metrics(trees: Sequence[TrajectoryTree], *, policy_version: int) -> dict[str, float]:
    """Metrics of the trees that a step trains on."""
    ages = [staleness(tree, policy_version) for tree in trees]
    metrics = _reward_metrics(trees)
    metrics |= _completion_metrics(trees)
    if ages:
        metrics |= {
            "off_policy/staleness/mean": float(np.mean(ages)),
            "off_policy/staleness/max": float(max(ages)),
        }
    return metrics


def failure_metrics(trees: Sequence[TrajectoryTree]) -> dict[str, float]:
    """`errored_rollouts/{env}/{cause}` over all trees that came, those without a scored leaf included."""
    counts = Counter(
        f"errored_rollouts/{tree.env_id}/{cause}"
        for tree in trees
        for cause in tree.leaf_causes
        if cause != SCORED
    )
    return {name: float(count) for name, count in counts.items()}


def scored_returns(tree: TrajectoryTree) -> list[float]:
    """Undiscounted returns of the scored sequences."""
    return [tree.sequence_return(leaf) for leaf in tree.scored_leaves()]


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


def _reward_metrics(trees: Sequence[TrajectoryTree]) -> dict[str, float]:
    by_env: dict[str, list[float]] = defaultdict(list)
    for tree in trees:
        by_env[tree.env_id] += scored_returns(tree)
    every = [value for values in by_env.values() for value in values]
    metrics = {
        f"reward/{env}/mean": float(np.mean(values)) for env, values in sorted(by_env.items()) if values
    }
    if every:
        metrics |= {"reward/mean": float(np.mean(every)), "reward/std": float(np.std(every))}
    return metrics


def _completion_metrics(trees: Sequence[TrajectoryTree]) -> dict[str, float]:
    """Of scored sequences: sampled tokens, and the share that was cut off instead of ending by itself."""
    lengths, cut_off = [], []
    for tree in trees:
        sampled = np.where(tree.sampled, np.diff(tree.node_offsets), 0)
        for leaf in tree.scored_leaves():
            lengths.append(int(sampled[tree.path(int(tree.leaf_nodes[leaf]))].sum()))
            cut_off.append(not tree.leaf_terminated[leaf])
    if not lengths:
        return {}
    return {
        "completions/mean_length": float(np.mean(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": float(np.mean(cut_off)),
    }
