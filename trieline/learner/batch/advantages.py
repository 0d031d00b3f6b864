"""Advantages that need no model: of returns against the other rollouts of the same task.

Where the leaves of a tree are of several groups (agents, roles, players), each group is compared within
itself, as if it were a task of its own.

`group`: A_b = R_b - mean of the other returns of the task (leave-one-out; RLOO, arXiv 2402.14740).
`tree`: a token's advantage is the mean return of the sequences through it minus that of the sequences
through the token where its branch parted from others; it stays the same along the branch.

An episode of several context windows has a sequence for each, along edges *continues*. Its return R_e is that
of the whole, and it counts once however many windows it has: with E_b the episodes that go through window b
(one, unless the window was forked later), R_b = mean of R_e over E_b, `group` takes the mean of R_e over
the episodes that are not in E_b, and `tree` counts sequence b as w_b = sum over e in E_b of 1 / windows of e.
Both may be divided by the (population) standard deviation of the returns of the task or of the batch.
"""

from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64, Int32, Int64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.trie import Trie

STD_FLOOR = 1e-6
"""Added to standard deviations, as is customary; returns are of the order of 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episodes:
    """Which of B sequences are windows of which of E episodes."""

    ends: Int64
    """[E] the sequence with which each one ends."""
    through: Bool
    """[B, E]"""

    @property
    def weights(self) -> Float64:
        """[B] shares of an episode that sum to 1 over its windows; of several, added up."""
        shares: Float64 = (self.through / self.through.sum(axis=0)).sum(axis=1)
        return shares


def compared_with_each_other(leaf_groups: Int32) -> list[Int64]:
    """Index arrays that divide sequences into those of one number in `leaf_groups` [B]."""
    return [np.flatnonzero(leaf_groups == group) for group in np.unique(leaf_groups)]


def group_advantages(returns: Float64, episodes: Episodes | None = None) -> Float64:
    """Leave-one-out advantages [B]. A sequence without others has none: 0."""
    if episodes is not None:
        whole = returns[episodes.ends]
        num_others = len(whole) - episodes.through.sum(axis=1)
        total = whole.sum() - episodes.through @ whole
        return np.where(num_others > 0, returns - total / np.maximum(num_others, 1), 0.0)
    n = len(returns)
    if n < 2:
        return np.zeros(n)
    others: Float64 = (returns.sum() - returns) / (n - 1)
    return returns - others


def tree_advantages(trie: Trie, returns: Float64, episodes: Episodes | None = None) -> Float64:
    """Advantage of each trie token [N] of one task, from the returns [B] of its sequences."""
    weights = np.ones(len(returns)) if episodes is None else episodes.weights
    through = np.zeros(trie.num_tokens)
    total = np.zeros(trie.num_tokens)
    for path, weight, sequence_return in zip(trie.paths, weights, returns, strict=True):
        through[path] += weight
        total[path] += weight * sequence_return
    is_first = trie.predecessor < 0
    before = np.maximum(trie.predecessor, 0)
    through_before = np.where(is_first, weights.sum(), through[before])
    total_before = np.where(is_first, weights @ returns, total[before])
    advantages: Float64 = total / through - total_before / through_before
    # Where nobody parts (or ends), a token follows its predecessor in preorder and takes its advantage.
    parted = (through != through_before) | is_first
    branch_start = np.maximum.accumulate(np.where(parted, np.arange(trie.num_tokens), 0))
    return advantages[branch_start]


def return_scale(returns: Float64) -> float:
    """What advantages are multiplied with to divide them by the standard deviation of `returns`.

    0 where rounding alone makes that deviation: it would be blown up to advantages of its own.
    """
    if len(returns) == 0 or np.ptp(returns) <= REWARD_ROUNDING * np.abs(returns).max():
        return 0.0
    return float(1.0 / (returns.std() + STD_FLOOR))
