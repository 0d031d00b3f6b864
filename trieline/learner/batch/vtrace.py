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

from trieline.common.arrays import Bool, Float64, Int32, Int64
from trieline.learner.batch.sequences import GOES_ON, TRUNCATED, ScoredSequence
from trieline.learner.batch.trie import Trie
from trieline.learner.objective_config import MAX_LOG_RATIO


def reference_vtrace(
    values: Float64,
    rewards: Float64,
    log_rhos: Float64,
    bootstrap_value: float,
    *,
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
) -> tuple[Float64, Float64]:
    """V-trace of one path of T actions, word for word and slow: what everything below must agree with.

    With x_t the state before action t, log_rhos [T] = log pi(a_t) - log mu(a_t), V(x_T) = bootstrap_value:

        rho_t = min(rho_bar, pi/mu),  c_t = lam min(c_bar, pi/mu)
        delta_t V = rho_t (r_t + gamma V(x_{t+1}) - V(x_t))
        vs_s = V(x_s) + sum over t = s..T-1 of gamma^(t-s) (product over i = s..t-1 of c_i) delta_t V
        pg_advantage_s = r_s + gamma vs_{s+1} - V(x_s),  where vs_T = V(x_T)

    Returns vs [T] and pg_advantages [T].
    """
    steps = range(len(values))
    ratios = np.exp(log_rhos)
    rhos, cs = np.minimum(rho_bar, ratios), lam * np.minimum(c_bar, ratios)
    next_values = [*values[1:], bootstrap_value]
    deltas = [rhos[t] * (rewards[t] + gamma * next_values[t] - values[t]) for t in steps]
    vs = [
        values[s] + sum(gamma ** (t - s) * np.prod(cs[s:t]) * deltas[t] for t in steps if t >= s)
        for s in steps
    ]
    next_vs = [*vs[1:], bootstrap_value]
    pg_advantages = [rewards[s] + gamma * next_vs[s] - values[s] for s in steps]
    return np.array(vs), np.array(pg_advantages)


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
        ending = sequence.endings()
        counts[ending, path] += 1
        rewards[ending, path] += sequence.rewards
        sampled[path] += sequence.trained
        logprobs[path] += np.where(sequence.trained, sequence.behavior_logprobs, 0)
    return TrieEpisodes(
        trie=trie,
        is_action=sampled > 0,
        behavior_logprobs=logprobs / np.maximum(sampled, 1),
        counts=counts,
        rewards=rewards / np.maximum(counts, 1),
    )


class VTraceSweep:
    """The recursion from the deepest tokens up, which may come in parts: each after all that is below it."""

    def __init__(
        self, episodes: TrieEpisodes, *, gamma: float, lam: float, rho_bar: float, c_bar: float
    ) -> None:
        self._episodes = episodes
        self._lam, self._rho_bar, self._c_bar = lam, rho_bar, c_bar
        trie, going_on = episodes.trie, episodes.num_going_on
        self._before = np.maximum(trie.predecessor, 0)
        self._gammas = np.where(episodes.is_action, gamma, 1.0)
        self._through = episodes.counts.sum(0)
        self._share = self._through / np.maximum(going_on[self._before], 1)
        # Means over the children of their own that a token stands for: r_c, and the factor of V(c).
        self._reward = (episodes.counts * episodes.rewards).sum(0) / self._through
        self._not_terminated = (going_on + episodes.counts[TRUNCATED]) / self._through
        self._only_context_follows = going_on > 0
        self._only_context_follows[self._before[episodes.is_action]] = False
        self._values = np.zeros(trie.num_tokens)
        self._corrections = np.zeros(trie.num_tokens)
        """vs - V of each state. Ended sequences correct nothing but their value."""
        self._ratios = np.ones(trie.num_tokens)

    def take(self, states: Int64, values: Float64, tokens: Int64, target_logprobs: Float64) -> None:
        """Go on to `states`, with their values, and all `tokens` after them, with their log-probabilities.

        Everything below these states was taken before; log-probabilities are read on actions.
        """
        episodes, before = self._episodes, self._before
        self._values[states] = np.where(self._only_context_follows[states], 0.0, values)
        logs = np.where(episodes.is_action[tokens], target_logprobs - episodes.behavior_logprobs[tokens], 0.0)
        self._ratios[tokens] = np.exp(np.minimum(logs, MAX_LOG_RATIO))
        for level in _levels(tokens, episodes.trie.position):
            parents, is_action = before[level], episodes.is_action[level]
            rhos = np.where(is_action, np.minimum(self._rho_bar, self._ratios[level]), 1.0)
            cs = np.where(is_action, self._lam * np.minimum(self._c_bar, self._ratios[level]), 1.0)
            gammas, share, reward = self._gammas[level], self._share[level], self._reward[level]
            next_values = self._not_terminated[level] * self._values[level]
            passed = np.where(self._only_context_follows[parents], share * (reward + next_values), 0.0)
            np.add.at(self._values, parents, passed)
            delta = rhos * (reward + gammas * next_values - self._values[parents])
            trace = gammas * cs * self._corrections[level]
            trace *= episodes.num_going_on[level] / self._through[level]
            np.add.at(self._corrections, parents, share * (delta + trace))

    def vs(self, states: Int64) -> Float64:
        """Targets of the values of states that were taken; V where no sequence goes on."""
        targets: Float64 = self._values[states] + self._corrections[states]
        return targets

    def pg_advantages(self, ending: Int64, tokens: Int64) -> Float64:
        """Of taking each of `tokens`, by what the sequence does after it. 0 for first tokens."""
        after = np.choose(ending, [self.vs(tokens), np.zeros(len(tokens)), self._values[tokens]])
        advantages = self._episodes.rewards[ending, tokens] + self._gammas[tokens] * after
        advantages -= self._values[self._before[tokens]]
        return np.where(self._episodes.trie.predecessor[tokens] < 0, 0.0, advantages)

    def rho_clipped(self, tokens: Int64) -> Bool:
        """Actions whose ratio exceeded rho_bar."""
        clipped: Bool = self._episodes.is_action[tokens] & (self._ratios[tokens] > self._rho_bar)
        return clipped


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
    sweep = VTraceSweep(episodes, gamma=gamma, lam=lam, rho_bar=rho_bar, c_bar=c_bar)
    tokens = np.arange(episodes.trie.num_tokens)
    followers = np.flatnonzero(episodes.trie.predecessor >= 0)
    sweep.take(tokens, values, followers, target_logprobs[followers])
    return VTraceReturns(
        vs=sweep.vs(tokens),
        pg_advantages=np.stack([sweep.pg_advantages(np.full(len(tokens), d), tokens) for d in range(3)]),
        rho_clipped=sweep.rho_clipped(tokens),
    )


def _levels(tokens: Int64, position: Int32) -> list[Int64]:
    """`tokens` by depth, the deepest ones first."""
    if len(tokens) == 0:
        return []
    order = np.argsort(-position[tokens], kind="stable")
    edges = np.flatnonzero(np.diff(position[tokens][order])) + 1
    return np.split(tokens[order], edges)
