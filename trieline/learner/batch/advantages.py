"""Advantages that need no model: of returns against the other rollouts of the same task.

Where the leaves of a tree are of several groups (agents, roles, players), each group is compared within
itself, as if it were a task of its own.

`group`: A_b = R_b - mean of the other returns of the task (leave-one-out; RLOO, arXiv 2402.14740).
`tree`: a token's advantage is the mean return of the sequences through it minus that of the sequences
through the token where its branch parted from others; it stays the same along the branch.
Both may be divided by the (population) standard deviation of the returns of the task or of the batch.
"""

import numpy as np

from trieline.common.arrays import Float64, Int32, Int64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.trie import Trie

STD_FLOOR = 1e-6
"""Added to standard deviations, as is customary; returns are of the order of 1."""


def compared_with_each_other(leaf_groups: Int32) -> list[Int64]:
    """Index arrays that divide sequences into those of one number in `leaf_groups` [B]."""
    return [np.flatnonzero(leaf_groups == group) for group in np.unique(leaf_groups)]


def group_advantages(returns: Float64) -> Float64:
    """Leave-one-out advantages [B]. A sequence without others has none: 0."""
    n = len(returns)
    if n < 2:
        return np.zeros(n)
    others: Float64 = (returns.sum() - returns) / (n - 1)
    return returns - others


def tree_advantages(trie: Trie, returns: Float64) -> Float64:
    """Advantage of each trie token [N] of one task, from the returns [B] of its sequences."""
    through = np.zeros(trie.num_tokens)
    total = np.zeros(trie.num_tokens)
    for path, sequence_return in zip(trie.paths, returns, strict=True):
        through[path] += 1
        total[path] += sequence_return
    is_first = trie.predecessor < 0
    before = np.maximum(trie.predecessor, 0)
    through_before = np.where(is_first, len(returns), through[before])
    total_before = np.where(is_first, returns.sum(), total[before])
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
