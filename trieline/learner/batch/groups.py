"""The groups of a batch: which trees teach something, and the advantages that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64, Int64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.advantages import (
    Episodes,
    compared_with_each_other,
    group_advantages,
    return_scale,
    tree_advantages,
)
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
    """The groups to train on, and how many trees have equal returns only (left out if the config says so).

    Of a tree whose leaves are compared in several groups, those of equal returns are left out.
    """
    all_compared = [_compared(sequences) for sequences in scored]
    returns = [_returns(*one) for one in zip(scored, all_compared, strict=True)]
    all_episodes = [
        [(members, episodes_among([sequences[b] for b in members])) for members in compared]
        for sequences, compared in zip(scored, all_compared, strict=True)
    ]
    of_episodes = [
        _of_episodes(own_returns[members], episodes)
        for own_returns, in_episodes in zip(returns, all_episodes, strict=True)
        for members, episodes in in_episodes
    ]
    all_returns = np.concatenate([np.empty(0), *of_episodes])
    groups, num_equal = [], 0
    for sequences, compared, own_returns, in_episodes in zip(
        scored, all_compared, returns, all_episodes, strict=True
    ):
        if not sequences:
            continue
        equal = _equal(compared, own_returns)
        num_equal += bool(equal.all())
        # A sequence without sampled tokens counts for the others' baseline, and teaches nothing.
        trained = np.array([s.num_trained > 0 for s in sequences])
        if config.skips_equal_returns:
            trained &= ~equal
        if not trained.any():
            continue
        kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
        trie = build_trie([s.token_ids for s in kept])
        whole = trie if trained.all() and len(compared) == 1 else None
        advantages: dict[int, Float64] = {}
        for members, episodes in in_episodes:
            own = _advantages([sequences[b] for b in members], own_returns[members], episodes, whole, config)
            scale = _scale(_of_episodes(own_returns[members], episodes), all_returns, config)
            advantages |= {b: a * scale for b, a in zip(members.tolist(), own, strict=True)}
        kept_advantages = [advantages[b] for b in np.flatnonzero(trained).tolist()]
        groups.append(Group(sequences=kept, trie=trie, advantages=kept_advantages))
    return groups, num_equal


def teaches(tree: TrajectoryTree, config: ObjectiveConfig) -> bool:
    """Whether a step has anything of this tree: something sampled, and returns that differ if they must."""
    sequences = tree_sequences(tree, tree_index=0, leaves=tree.scored_leaves())
    trained = np.array([s.num_trained > 0 for s in sequences], np.bool_)
    if config.skips_equal_returns:
        compared = _compared(sequences)
        trained &= ~_equal(compared, _returns(sequences, compared))
    return bool(trained.any())


def _compared(sequences: Sequence[ScoredSequence]) -> list[Int64]:
    return compared_with_each_other(np.array([s.leaf_group for s in sequences], np.int32))


def episodes_among(sequences: Sequence[ScoredSequence]) -> Episodes | None:
    """Which sequences that are compared are windows of which episodes; None: each is an episode."""
    if all(s.episodes is None for s in sequences):
        return None
    place = {s.leaf: b for b, s in enumerate(sequences)}
    # An episode that ends in another group is none here: its windows stand for themselves.
    known = [[place[e] for e in s.episodes or () if e in place] or [b] for b, s in enumerate(sequences)]
    ends = np.unique(np.concatenate(known))
    through = np.array([np.isin(ends, own) for own in known])
    return Episodes(ends=ends, through=through)


def _of_episodes(returns: Float64, episodes: Episodes | None) -> Float64:
    """[E] one return for each episode, of the returns [B] of its windows."""
    return returns if episodes is None else returns[episodes.ends]


def _equal(compared: Sequence[Int64], returns: Float64) -> Bool:
    """[B] True where all sequences that one is compared with have the same return."""
    equal = np.zeros(len(returns), np.bool_)
    for members in compared:
        equal[members] = np.ptp(returns[members]) == 0
    return equal


def _returns(sequences: Sequence[ScoredSequence], compared: Sequence[Int64]) -> Float64:
    """Returns [B]; the same number for sequences that are compared where they differ by rounding alone."""
    returns = np.array([s.sequence_return for s in sequences])
    sizes = np.array([np.abs(s.rewards).sum(dtype=np.float64) for s in sequences])
    for members in compared:
        if np.ptp(returns[members]) <= REWARD_ROUNDING * sizes[members].max():
            returns[members] = returns[members[0]]
    return returns


def _advantages(
    sequences: list[ScoredSequence],
    returns: Float64,
    episodes: Episodes | None,
    trie: Trie | None,
    config: ObjectiveConfig,
) -> list[Float64]:
    """[B] arrays over the trained tokens of sequences that are compared with each other; `trie` is theirs."""
    if config.loss == "sft" or config.advantage == "vtrace":
        return [np.zeros(s.num_trained) for s in sequences]
    if config.advantage == "group":
        found = group_advantages(returns, episodes)
        return [np.full(s.num_trained, a) for s, a in zip(sequences, found, strict=True)]
    trie = trie or build_trie([s.token_ids for s in sequences])
    by_token = tree_advantages(trie, returns, episodes)
    return [by_token[path][s.trained] for path, s in zip(trie.paths, sequences, strict=True)]


def _scale(returns: Float64, all_returns: Float64, config: ObjectiveConfig) -> float:
    if config.scale_rewards == "none":
        return 1.0
    return return_scale(returns if config.scale_rewards == "group" else all_returns)
