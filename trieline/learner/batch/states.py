"""What the sequences of one task did on its states: the prefixes that end in each token.

A state is a place in the trie, so that equal prefixes of different sequences are one. Where edges lead from
the end of a sequence into another one, it is a token of the tree instead: what comes of a node is told by
node, and in a trie a context window that begins as an earlier one did would come to lead into itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Bool, Float64, Int64
from trieline.learner.batch.sequences import GOES_ON, LEADS_ON, ScoredSequence
from trieline.learner.batch.trie import Trie

ENDINGS = 4
"""What a sequence may do after a token."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrieEpisodes:
    """N states of one task, each by the token that it ends in."""

    predecessor: Int64
    """[N] the state before each token, -1 for first tokens."""
    rank: Int64
    """[N] what comes of a token has a higher one: later tokens of its sequences, and where they lead."""
    paths: tuple[Int64, ...]
    """[B] the states of each sequence."""
    endings: tuple[Int64, ...]
    """[B] what the sequence does after each of its tokens."""
    is_action: Bool
    """[N] True where the policy sampled the token."""
    behavior_logprobs: Float64
    """[N] mean of the recorded ones; 0 on context tokens."""
    counts: Float64
    """[ENDINGS, N] by what the sequence does after the token: how many of those that carry it."""
    arriving: Float64
    """[N] how many of those that carry the token carry the state before it, too."""
    rewards: Float64
    """[ENDINGS, N] mean reward of these sequences at the token; 0 where there are none."""
    on_tree: bool
    """Whether states are tokens of the tree, not of the trie."""
    leads: Int64
    """[2, P] a token with which a sequence ends, and where an edge leads from it: the last token of some
    context, or the first one of a reply, which means the state before it."""

    @property
    def num_states(self) -> int:
        return len(self.predecessor)

    @property
    def num_going_on(self) -> Float64:
        """[N] n(s) of each token as a state."""
        going_on: Float64 = self.counts[GOES_ON]
        return going_on


def trie_episodes(trie: Trie, sequences: Sequence[ScoredSequence]) -> TrieEpisodes:
    """Sum up `sequences`, the paths of `trie`."""
    if any(s.leads_to or s.own_from for s in sequences):
        return _episodes_on_tree(sequences)
    paths = [path.astype(np.int64) for path in trie.paths]
    predecessor, rank = trie.predecessor.astype(np.int64), trie.position.astype(np.int64)
    return _summed_up(sequences, paths, [s.endings() for s in sequences], predecessor, rank, None)


def _episodes_on_tree(sequences: Sequence[ScoredSequence]) -> TrieEpisodes:
    of_tree = [s.tree_tokens for s in sequences if s.tree_tokens is not None]
    nodes_of_tree = [s.nodes for s in sequences if s.nodes is not None]
    assert len(of_tree) == len(nodes_of_tree) == len(sequences), "only sequences of a tree lead on"
    tokens, inverse = np.unique(np.concatenate(of_tree), return_inverse=True)
    paths = np.split(inverse.astype(np.int64), np.cumsum([len(own) for own in of_tree])[:-1])
    predecessor, nodes = np.full(len(tokens), -1), np.empty(len(tokens), np.int64)
    for path, own_nodes in zip(paths, nodes_of_tree, strict=True):
        predecessor[path[1:]] = path[:-1]
        nodes[path] = own_nodes
    # The tokens of a node follow each other.
    first = np.flatnonzero(np.diff(nodes, prepend=-1))
    last = np.append(first[1:], len(tokens)) - 1
    is_sampled = np.zeros(len(tokens), np.bool_)
    for path, s in zip(paths, sequences, strict=True):
        is_sampled[path] |= s.trained
    # A reply is led to at its first token, the context at its last one.
    led_to = np.where(is_sampled[first], first, last)
    of_node = dict(zip(nodes[first].tolist(), led_to.tolist(), strict=True))
    endings, leads = [], set()
    for path, s in zip(paths, sequences, strict=True):
        ending = s.endings()
        # A sequence may have led to one that is not trained on.
        into = [of_node[node] for node in s.leads_to if node in of_node]
        if into:
            ending[-1] = LEADS_ON
            leads |= {(int(path[-1]), token) for token in into}
        endings.append(ending)
    pairs = np.array(sorted(leads), np.int64).reshape(-1, 2).T
    rank = _ranks(first, last, predecessor, pairs)
    return _summed_up(sequences, paths, endings, predecessor, rank, pairs)


def _ranks(first: Int64, last: Int64, predecessor: Int64, leads: Int64) -> Int64:
    """[N] depths, but where a token leads lies deeper than it. Nodes come in their order."""
    rank = np.zeros(len(predecessor), np.int64)
    into: dict[int, list[int]] = {}
    for source, token in leads.T.tolist():
        into.setdefault(token, []).append(source)
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        before = int(predecessor[begin])
        start = int(rank[before]) + 1 if before >= 0 else 0
        for token in (begin, end):
            deepest = max([int(rank[source]) for source in into.get(token, ())], default=-1)
            start = max(start, deepest + 1 - (token - begin))
        rank[begin : end + 1] = np.arange(start, start + end + 1 - begin)
    return rank


def _summed_up(
    sequences: Sequence[ScoredSequence],
    paths: Sequence[Int64],
    endings: Sequence[Int64],
    predecessor: Int64,
    rank: Int64,
    leads: Int64 | None,
) -> TrieEpisodes:
    """`leads`: None if the states are those of the trie."""
    n = len(predecessor)
    counts, rewards = np.zeros((ENDINGS, n)), np.zeros((ENDINGS, n))
    sampled, logprobs, arriving = np.zeros(n), np.zeros(n), np.zeros(n)
    for path, ending, s in zip(paths, endings, sequences, strict=True):
        own, after = path[s.own_from :], ending[s.own_from :]
        counts[after, own] += 1
        rewards[after, own] += s.rewards[s.own_from :]
        arriving[own[1:]] += 1
        sampled[path] += s.trained
        logprobs[path] += np.where(s.trained, s.behavior_logprobs, 0)
    return TrieEpisodes(
        predecessor=predecessor,
        rank=rank,
        paths=tuple(paths),
        endings=tuple(endings),
        is_action=sampled > 0,
        behavior_logprobs=logprobs / np.maximum(sampled, 1),
        counts=counts,
        arriving=arriving,
        rewards=rewards / np.maximum(counts, 1),
        on_tree=leads is not None,
        leads=np.empty((2, 0), np.int64) if leads is None else leads,
    )
