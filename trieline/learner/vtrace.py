"""V-trace (IMPALA, arXiv 1802.01561, eq. 1) on a trie.

State s is the prefix that ends in token s; child c is a next token; n(.) counts sequences. With
rho_c = min(rho_bar, pi/mu), c_c = lam * min(c_bar, pi/mu):

    vs(s) = V(s) + sum over children c of n(c)/n(s) [ rho_c (r_c + gamma V(c) - V(s))
                                                      + gamma c_c (vs(c) - V(c)) ]
    pg_advantage(c) = r_c + gamma vs(c) - V(s)          (the loss multiplies rho_pg_c)

A sequence that ends in token c is a child of its own beside the sequences that go on through c: with
V = vs = 0 if it terminated, V = vs = V(c) if it was truncated. n(s) counts the sequences that go on from s.
On a single path this is the sequence V-trace. Edges that several sequences took have the mean of their
recorded behaviour log-probabilities, and of the rewards of those that went on, terminated or were truncated.

Time passes with actions only: on a context token pi/mu, gamma and lam are 1, and V of a state that only
context follows is the mean of r_c + V(c) after it, not what the value head says there: the policy decides
nothing in such a state, and its value is not trained. So the length of a prompt or of a tool's output neither
discounts nor cuts a trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trieline.actors.wire.tree import Bool
from trieline.learner.sequences import GOES_ON, TRUNCATED, ScoredSequence
from trieline.learner.trie import Trie

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrieEpisodes:
    """What the sequences of one task did on its trie of N tokens."""

    trie: Trie
    is_action: Bool
    """[N] True where the policy sampled the token."""
    behavior_logprobs: Float64
    """[N] mean of the recorded ones; 0 on context tokens."""
    counts: Float64
    """[3, N] by what the sequence does after the token (GOES_ON, TERMINATED, TRUNCATED): how many."""
    rewards: Float64
    """[3, N] mean reward of these sequences at the token; 0 where there are none."""

    @property
    def num_going_on(self) -> Float64:
        """[N] n(s) of each token as a state."""
        going_on: Float64 = self.counts[GOES_ON]
        return going_on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VTraceReturns:
    """Targets, without gradients."""

    vs: Float64
    """[N] target of the value of each token as a state; its V where no sequence goes on."""
    pg_advantages: Float64
    """[3, N] of taking each token, by what the sequence does after it. 0 for first tokens."""
    rho_clipped: Bool
    """[N] actions whose ratio exceeded rho_bar."""


def trie_episodes(trie: Trie, sequences: Sequence[ScoredSequence]) -> TrieEpisodes:
    """Sum up `sequences`, the paths of `trie`."""
    n = trie.num_tokens
    counts, rewards = np.zeros((3, n)), np.zeros((3, n))
    sampled, logprobs = np.zeros(n), np.zeros(n)
    for path, sequence in zip(trie.paths, sequences, strict=True):
        does = sequence.does_after()
        counts[does, path] += 1
        rewards[does, path] += sequence.rewards
        sampled[path] += sequence.trained
        logprobs[path] += np.where(sequence.trained, sequence.behavior_logprobs, 0)
    return TrieEpisodes(
        trie=trie,
        is_action=sampled > 0,
        behavior_logprobs=logprobs / np.maximum(sampled, 1),
        counts=counts,
        rewards=rewards / np.maximum(counts, 1),
    )


def vtrace_on_trie(
    episodes: TrieEpisodes,
    values: Float64,
    target_logprobs: Float64,
    *,
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
) -> VTraceReturns:
    """Targets from `values` [N] of the states and `target_logprobs` [N] of the tokens (read on actions)."""
    trie, is_action = episodes.trie, episodes.is_action
    ratios = np.exp(np.where(is_action, target_logprobs - episodes.behavior_logprobs, 0.0))
    rhos = np.where(is_action, np.minimum(rho_bar, ratios), 1.0)
    cs = np.where(is_action, lam * np.minimum(c_bar, ratios), 1.0)
    gammas = np.where(is_action, gamma, 1.0)
    before = np.maximum(trie.predecessor, 0)

    through = episodes.counts.sum(0)
    going_on = episodes.num_going_on
    share = through / np.maximum(going_on[before], 1)
    # Means over the children of their own that a token stands for: r_c, and the factor of V(c).
    reward = (episodes.counts * episodes.rewards).sum(0) / through
    not_terminated = (going_on + episodes.counts[TRUNCATED]) / through

    only_context_follows = going_on > 0
    only_context_follows[before[is_action]] = False
    values = np.where(only_context_follows, 0.0, values)
    corrections = np.zeros(trie.num_tokens)
    """vs - V of each state, from the deepest tokens up. Ended sequences correct nothing but their value."""
    for level in _levels(trie)[:0:-1]:
        parents = before[level]
        next_values = not_terminated[level] * values[level]
        passed = np.where(only_context_follows[parents], share[level] * (reward[level] + next_values), 0.0)
        np.add.at(values, parents, passed)
        delta = rhos[level] * (reward[level] + gammas[level] * next_values - values[parents])
        trace = gammas[level] * cs[level] * corrections[level] * going_on[level] / through[level]
        np.add.at(corrections, parents, share[level] * (delta + trace))
    vs = values + corrections

    after = np.stack([vs, np.zeros_like(vs), values])
    pg_advantages = episodes.rewards + gammas * after - values[before]
    pg_advantages[:, trie.predecessor < 0] = 0
    return VTraceReturns(vs=vs, pg_advantages=pg_advantages, rho_clipped=is_action & (ratios > rho_bar))


def _levels(trie: Trie) -> list[npt.NDArray[np.intp]]:
    """Token indices by depth."""
    order = np.argsort(trie.position, kind="stable")
    return np.split(order, np.cumsum(np.bincount(trie.position))[:-1])
