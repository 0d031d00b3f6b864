"""The groups of a batch: which trees teach something, and the advantages that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64, Int64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.advantages import (
    compared_with_each_other,
    group_advantages,
    return_scale,
    tree_advantages,
)
from trieline.learner.batch.episodes import Episodes, episodes_among
from trieline.learner.batch.sequences import ScoredSequence, tree_sequences
from trieline.learner.batch.trie import Trie, build_trie
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """The sequences of one tree that are trained on, B of them, and their own trie."""

    sequences: list[ScoredSequence]
    episodes: Episodes
    trie: Trie
    advantages: list[Float64]
    """[B] arrays over the trained tokens of each sequence; zeros where the model's values are needed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Compared:
    """Sequences of a tree that are compared with each other."""

    members: Int64
    """Their places among the tree's sequences."""
    episodes: Episodes
    returns: Float64
    """[E] the same number where they differ by rounding alone."""

    @property
    def all_equal(self) -> bool:
        return float(np.ptp(self.returns)) == 0


def trained_groups(scored: list[list[ScoredSequence]], config: ObjectiveConfig) -> tuple[list[Group], int]:
    """The groups to train on, and how many trees have equal returns only (left out if the config says so).

    Of a tree whose leaves are compared in several groups, those of equal returns are left out.
    """
    all_compared = [_compared(sequences) for sequences in scored]
    all_returns = np.concatenate([np.empty(0), *(one.returns for each in all_compared for one in each)])
    groups, num_equal = [], 0
    for sequences, compared in zip(scored, all_compared, strict=True):
        if not sequences:
            continue
        num_equal += all(one.all_equal for one in compared)
        trained = _trained(sequences, compared, config)
        if not trained.any():
            continue
        kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
        trie = build_trie([s.keys for s in kept])
        whole = trie if trained.all() and len(compared) == 1 else None
        advantages: dict[int, Float64] = {}
        for one in compared:
            own = _advantages([sequences[b] for b in one.members], one, whole, config)
            scale = _scale(one.returns, all_returns, config)
            advantages |= {b: a * scale for b, a in zip(one.members.tolist(), own, strict=True)}
        kept_advantages = [advantages[b] for b in np.flatnonzero(trained).tolist()]
        episodes, _ = episodes_among(kept)
        groups.append(Group(sequences=kept, episodes=episodes, trie=trie, advantages=kept_advantages))
    return groups, num_equal


def teaches(tree: TrajectoryTree, config: ObjectiveConfig) -> bool:
    """Whether a step has anything of this tree: something sampled, and returns that differ if they must."""
    sequences = tree_sequences(tree, tree_index=0, leaves=tree.scored_leaves())
    return bool(_trained(sequences, _compared(sequences), config).any())


def _trained(
    sequences: Sequence[ScoredSequence], compared: Sequence[_Compared], config: ObjectiveConfig
) -> Bool:
    """[B] which sequences are trained on.

    One without sampled tokens of its own counts for the others' baseline, and teaches nothing.
    """
    trained = np.array([s.num_trained > 0 for s in sequences], np.bool_)
    if config.skips_equal_returns:
        for one in compared:
            trained[one.members] &= not one.all_equal
    return trained


def _compared(sequences: Sequence[ScoredSequence]) -> list[_Compared]:
    found = []
    sizes = np.array([np.abs(s.rewards).sum(dtype=np.float64) for s in sequences])
    for members in compared_with_each_other(np.array([s.leaf_group for s in sequences], np.int32)):
        episodes, returns = episodes_among([sequences[b] for b in members])
        if np.ptp(returns) <= REWARD_ROUNDING * episodes.totals(sizes[members]).max():
            returns[:] = returns[0]
        found.append(_Compared(members=members, episodes=episodes, returns=returns))
    return found


def _advantages(
    sequences: list[ScoredSequence], compared: _Compared, trie: Trie | None, config: ObjectiveConfig
) -> list[Float64]:
    """[B] arrays over the trained tokens of sequences that are compared with each other; `trie` is theirs."""
    if config.loss == "sft" or config.advantage == "vtrace":
        return [np.zeros(s.num_trained) for s in sequences]
    if config.advantage == "group":
        found = group_advantages(compared.returns, compared.episodes)
        return [np.full(s.num_trained, a) for s, a in zip(sequences, found, strict=True)]
    trie = trie or build_trie([s.keys for s in sequences])
    by_token = tree_advantages(trie, compared.returns, compared.episodes)
    return [by_token[path][s.trained] for path, s in zip(trie.paths, sequences, strict=True)]


def _scale(returns: Float64, all_returns: Float64, config: ObjectiveConfig) -> float:
    if config.scale_rewards == "none":
        return 1.0
    return return_scale(returns if config.scale_rewards == "group" else all_returns)
