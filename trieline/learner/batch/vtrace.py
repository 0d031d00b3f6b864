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

Where edges go from the end of a sequence (a summary *continues* in a context window, a sub-agent's last text
*returns* to a tool result in its parent), it goes on where they lead. With E the nodes to which edges lead
from its last token c, each a piece of context or a reply:

    V  = mean over E of [ r_x + after(x)  of context that ends in the state x,  V(x)  of a reply in x ]
    vs = the same of vs; of a reply in x as above, with its first token for the only child of x

instead of V(c), or of 0, where after(.) is the mean of V, or of vs, of what the sequences through a token
come to next. So it is as if the text after x followed c: neither the edge nor the context takes time. A
summary bootstraps from the state that its window begins in, a sub-agent from the state after its answer. An
edge from the middle of a sequence (a sub-agent that was asked again) does not end it: its values come from
its own end. What a sub-agent earned itself is its own: no edge leads from the call to it, so that its
caller's values are those of what came after the answer. A sequence counts from the first token that it
carries: a window is not one of the things that may follow its prompt.
"""

from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64, Int64
from trieline.learner.batch.sequences import LEADS_ON, TRUNCATED
from trieline.learner.batch.states import ENDINGS, TrieEpisodes
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
class VTraceReturns:
    """Targets, without gradients."""

    vs: Float64
    """[N] target of the value of each token as a state; its V where no sequence goes on."""
    pg_advantages: Float64
    """[ENDINGS, N] of taking each token, by what the sequence does after it. 0 for first tokens."""
    rho_clipped: Bool
    """[N] actions whose ratio exceeded rho_bar."""


class VTraceSweep:
    """The recursion from the deepest tokens up, which may come in parts: each after all that is below it."""

    def __init__(
        self, episodes: TrieEpisodes, *, gamma: float, lam: float, rho_bar: float, c_bar: float
    ) -> None:
        self._episodes = episodes
        self._lam, self._rho_bar, self._c_bar = lam, rho_bar, c_bar
        going_on, counts = episodes.num_going_on, episodes.counts
        self._before = np.maximum(episodes.predecessor, 0)
        self._gammas = np.where(episodes.is_action, gamma, 1.0)
        # What no sequence carries is only passed through.
        through = np.maximum(counts.sum(0), 1)
        self._share = episodes.arriving / np.maximum(going_on[self._before], 1)
        # Means over the children of their own that a token stands for: r_c, and the factors of what is next.
        self._reward = (counts * episodes.rewards).sum(0) / through
        self._goes_on = going_on / through
        self._not_ended = (going_on + counts[TRUNCATED]) / through
        self._leads_on = counts[LEADS_ON] / through
        self._only_context_follows = going_on > 0
        self._only_context_follows[self._before[episodes.is_action]] = False
        self._values = np.zeros(episodes.num_states)
        self._corrections = np.zeros(episodes.num_states)
        """vs - V of each state. Ended sequences correct nothing but their value."""
        self._led_values, self._led_targets = np.zeros((2, episodes.num_states))
        """V and vs of what comes after the edges from each token."""
        self._led_from: dict[int, list[int]] = {}
        for source, token in episodes.leads.T.tolist():
            self._led_from.setdefault(token, []).append(source)
        self._edge_share = 1 / np.maximum(np.bincount(episodes.leads[0], minlength=episodes.num_states), 1)
        self._ratios = np.ones(episodes.num_states)

    def take(self, states: Int64, values: Float64, tokens: Int64, target_logprobs: Float64) -> None:
        """Go on to `states`, with their values, and all `tokens` after them, with their log-probabilities.

        Everything below these states was taken before; log-probabilities are read on actions.
        """
        episodes, before = self._episodes, self._before
        self._values[states] = np.where(self._only_context_follows[states], 0.0, values)
        logs = np.where(episodes.is_action[tokens], target_logprobs - episodes.behavior_logprobs[tokens], 0.0)
        self._ratios[tokens] = np.exp(np.minimum(logs, MAX_LOG_RATIO))
        for level in _levels(tokens, episodes.rank):
            parents, is_action = before[level], episodes.is_action[level]
            rhos = np.where(is_action, np.minimum(self._rho_bar, self._ratios[level]), 1.0)
            cs = np.where(is_action, self._lam * np.minimum(self._c_bar, self._ratios[level]), 1.0)
            gammas, share, reward = self._gammas[level], self._share[level], self._reward[level]
            next_values, next_corrections = self._after(level)
            passed = np.where(self._only_context_follows[parents], share * (reward + next_values), 0.0)
            np.add.at(self._values, parents, passed)
            delta = rhos * (reward + gammas * next_values - self._values[parents])
            trace = gammas * cs * next_corrections
            np.add.at(self._corrections, parents, share * (delta + trace))
            if self._led_from:
                led_values = np.where(is_action, self._values[parents], reward + next_values)
                self._lead_on(level, led_values, np.where(is_action, delta + trace, next_corrections))

    def _after(self, tokens: Int64) -> tuple[Float64, Float64]:
        """Means over the sequences that carry each token, of V after it and of vs - V."""
        led = self._leads_on[tokens]
        values = self._not_ended[tokens] * self._values[tokens] + led * self._led_values[tokens]
        corrections = self._goes_on[tokens] * self._corrections[tokens]
        corrections += led * (self._led_targets[tokens] - self._led_values[tokens])
        return values, corrections

    def _lead_on(self, level: Int64, values: Float64, corrections: Float64) -> None:
        """Tell the ends that lead to tokens of this level."""
        for token, value, correction in zip(level.tolist(), values, corrections, strict=True):
            for source in self._led_from.get(token, ()):
                share = self._edge_share[source]
                self._led_values[source] += share * value
                self._led_targets[source] += share * (value + correction)

    def vs(self, states: Int64) -> Float64:
        """Targets of the values of states that were taken; V where no sequence goes on."""
        targets: Float64 = self._values[states] + self._corrections[states]
        return targets

    def pg_advantages(self, ending: Int64, tokens: Int64) -> Float64:
        """Of taking each of `tokens`, by what the sequence does after it. 0 for first tokens."""
        none = np.zeros(len(tokens))
        after = np.choose(ending, [self.vs(tokens), none, self._values[tokens], self._led_targets[tokens]])
        advantages = self._episodes.rewards[ending, tokens] + self._gammas[tokens] * after
        advantages -= self._values[self._before[tokens]]
        return np.where(self._episodes.predecessor[tokens] < 0, 0.0, advantages)

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
    tokens = np.arange(episodes.num_states)
    followers = np.flatnonzero(episodes.predecessor >= 0)
    sweep.take(tokens, values, followers, target_logprobs[followers])
    advantages = [sweep.pg_advantages(np.full(len(tokens), ending), tokens) for ending in range(ENDINGS)]
    return VTraceReturns(
        vs=sweep.vs(tokens), pg_advantages=np.stack(advantages), rho_clipped=sweep.rho_clipped(tokens)
    )


def _levels(tokens: Int64, rank: Int64) -> list[Int64]:
    """`tokens` by rank, the highest ones first."""
    if len(tokens) == 0:
        return []
    order = np.argsort(-rank[tokens], kind="stable")
    edges = np.flatnonzero(np.diff(rank[tokens][order])) + 1
    return np.split(tokens[order], edges)
