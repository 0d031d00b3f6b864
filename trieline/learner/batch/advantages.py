"""Advantages that need no model: of returns against the other rollouts of the same task.

Where the leaves of a tree are of several groups (agents, roles, players), each group is compared within
itself, as if it were a task of its own.

An episode e may have a sequence for each of its context windows and sub-agents. Its return R_e is that of the
whole, along edges *continues* and *returns*, and it counts once however many sequences it has. With E_b the
episodes that sequence b is part of (one, unless what came after it was forked), E all of the task:

`group`: A_b = mean of R_e over E_b - mean of R_e over E without E_b (leave-one-out; RLOO, arXiv 2402.14740).
So a summary, and what a sub-agent did, are worth what the episode that used them earned.

`tree`: with E(i) the episodes of which a sequence goes through token i,

    A_i = mean of R_e over E(i) - mean of R_e over E(before the token where the branch of i began)

and a branch begins where E(i) gets smaller: it stays the same along the branch. So at a branch of a window or
of a sub-agent, too, what is compared is what came of it along all three kinds of edge. In a trie of sequences
that are episodes by themselves, the branches of one place, weighted by their episodes, have a mean of zero.

Both may be divided by the (population) standard deviation of the returns R_e of the task or of the batch.
"""

import numpy as np

from trieline.common.arrays import Bool, Float64, Int32, Int64
from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.batch.episodes import Episodes, alone
from trieline.learner.batch.trie import Trie

STD_FLOOR = 1e-6
"""Added to standard deviations, as is customary; returns are of the order of 1."""


def compared_with_each_other(leaf_groups: Int32) -> list[Int64]:
    """Index arrays that divide sequences into those of one number in `leaf_groups` [B]."""
    return [np.flatnonzero(leaf_groups == group) for group in np.unique(leaf_groups)]


def group_advantages(returns: Float64, episodes: Episodes | None = None) -> Float64:
    """Leave-one-out advantages [B], of the returns [E] of episodes. None: each sequence is one.

    A sequence of all episodes that there are has none to be compared with: 0.
    """
    episodes = episodes or alone(len(returns))
    num_others = len(returns) - episodes.counts
    others = (returns.sum() - episodes.shares(returns)) / np.maximum(num_others, 1)
    return np.where(num_others > 0, episodes.means(returns) - others, 0.0)


def tree_advantages(trie: Trie, returns: Float64, episodes: Episodes | None = None) -> Float64:
    """Advantage of each trie token [N] of one task, from the returns [E] of the episodes of its sequences."""
    through, total = np.zeros(trie.num_tokens), np.zeros(trie.num_tokens)
    latest = np.full(trie.num_tokens, -1)
    for e, members in enumerate((episodes or alone(len(returns))).members()):
        for b in members.tolist():
            path = trie.paths[b]
            first = path[latest[path] != e]
            latest[first] = e
            through[first] += 1
            total[first] += returns[e]
    is_first = trie.predecessor < 0
    before = np.maximum(trie.predecessor, 0)
    through_before = np.where(is_first, len(returns), through[before])
    total_before = np.where(is_first, returns.sum(), total[before])
    advantages: Float64 = total / through - total_before / through_before
    return advantages[_branch_starts(trie, (through != through_before) | is_first)]


def _branch_starts(trie: Trie, begins: Bool) -> Int64:
    """[N] the token that begins the branch of each one: itself, or that of its predecessor."""
    # A run is a line of tokens that follow each other, up to where a branch begins or another leaves it.
    places = np.arange(trie.num_tokens)
    runs = begins | (trie.predecessor != places - 1)
    starts = np.flatnonzero(runs)
    run = np.cumsum(runs) - 1
    found: Int64 = starts.copy()
    # A run that begins no branch goes on where its predecessor's run does, which comes before it.
    for r in np.flatnonzero(~begins[starts]).tolist():
        found[r] = found[run[trie.predecessor[starts[r]]]]
    of_tokens: Int64 = found[run]
    return of_tokens


def return_scale(returns: Float64) -> float:
    """What advantages are multiplied with to divide them by the standard deviation of `returns`.

    0 where rounding alone makes that deviation: it would be blown up to advantages of its own.
    """
    if len(returns) == 0 or np.ptp(returns) <= REWARD_ROUNDING * np.abs(returns).max():
        return 0.0
    return float(1.0 / (returns.std() + STD_FLOOR))
