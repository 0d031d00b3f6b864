"""The groups of a batch: which trees teach something, and the advantages that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.advantages import group_advantages, return_scale, tree_advantages
from trieline.learner.batch.sequences import ScoredSequence, tree_sequences
from trieline.learner.batch.trie import Trie, build_trie
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """The sequences of one tree that are trained on, B of them, and their own trie."""

    sequences: list[ScoredSequence]
    trie: Trie
    advantages: list[Float64]
    """[B] arrays over the trained tokens of each sequence; zeros where the model's values are needed."""


def trained_groups(scored: list[list[ScoredSequence]], config: ObjectiveConfig) -> tuple[list[Group], int]:
    """The groups to train on, and how many have equal returns (left out if the config says so)."""
    returns = [group_returns(group) for group in scored]
    all_returns = np.concatenate([np.empty(0), *returns])
    groups, num_equal = [], 0
    for sequences, own_returns in zip(scored, returns, strict=True):
        if not sequences:
            continue
        equal = bool(own_returns.max() == own_returns.min())
        num_equal += equal
        if equal and config.skips_equal_returns:
            continue
        # A sequence without sampled tokens counts for the others' baseline, and teaches nothing.
        trained = np.array([s.num_trained > 0 for s in sequences])
        if not trained.any():
            continue
        kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
        trie = build_trie([s.token_ids for s in kept])
        advantages = _advantages(sequences, own_returns, trained, trie, config)
        scale = {"none": 1.0, "group": return_scale(own_returns), "batch": return_scale(all_returns)}
        advantages = [a * scale[config.scale_rewards] for a in advantages]
        groups.append(Group(sequences=kept, trie=trie, advantages=advantages))
    return groups, num_equal


def group_returns(sequences: Sequence[ScoredSequence]) -> Float64:
    """Returns [B] of the sequences of one task; the same number where they differ by rounding alone."""
    returns = np.array([s.sequence_return for s in sequences])
    if not sequences:
        return returns
    largest = max(float(np.abs(s.rewards).sum(dtype=np.float64)) for s in sequences)
    if np.ptp(returns) > REWARD_ROUNDING * largest:
        return returns
    return np.full(len(returns), returns[0])


def teaches(tree: TrajectoryTree, config: ObjectiveConfig) -> bool:
    """Whether a step has anything of this tree: something sampled, and returns that differ if they must."""
    sequences = tree_sequences(tree, tree_index=0, leaves=tree.scored_leaves())
    if not any(s.num_trained for s in sequences):
        return False
    returns = group_returns(sequences)
    return not config.skips_equal_returns or bool(returns.max() > returns.min())


def _advantages(
    sequences: list[ScoredSequence], returns: Float64, trained: Bool, trie: Trie, config: ObjectiveConfig
) -> list[Float64]:
    """[B] arrays over the trained tokens of the sequences in `trie`, those of `trained`."""
    kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
    if config.loss == "sft" or config.advantage == "vtrace":
        return [np.zeros(s.num_trained) for s in kept]
    if config.advantage == "group":
        kept_advantages = group_advantages(returns)[trained]
        return [np.full(s.num_trained, a) for s, a in zip(kept, kept_advantages, strict=True)]
    whole = trie if trained.all() else build_trie([s.token_ids for s in sequences])
    by_token = tree_advantages(whole, returns)
    paths = [path for path, keep in zip(whole.paths, trained, strict=True) if keep]
    return [by_token[path][s.trained] for s, path in zip(kept, paths, strict=True)]
