"""Which sequences are part of which episodes: what is compared and weighed is an episode, not a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Float64, Int64
from trieline.learner.batch.sequences import ScoredSequence


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episodes:
    """B sequences in E episodes, as P pairs. Every sequence is in one at least, and every episode has one.

    Example, an episode of two context windows and one of a single one:
    `sequences=[0, 1, 2]`, `episodes=[0, 0, 1]`.
    """

    num_sequences: int
    num_episodes: int
    sequences: Int64
    """[P]"""
    episodes: Int64
    """[P]"""

    @property
    def counts(self) -> Int64:
        """[B] episodes that each sequence is part of."""
        return np.bincount(self.sequences, minlength=self.num_sequences)

    def totals(self, values: Float64) -> Float64:
        """[E] sums over the sequences of each episode, of `values` [B]."""
        totals = np.zeros(self.num_episodes)
        np.add.at(totals, self.episodes, values[self.sequences])
        return totals

    def shares(self, values: Float64) -> Float64:
        """[B] sums over the episodes of each sequence, of `values` [E]."""
        shares = np.zeros(self.num_sequences)
        np.add.at(shares, self.sequences, values[self.episodes])
        return shares

    def means(self, values: Float64) -> Float64:
        """[B] means over the episodes of each sequence, of `values` [E]."""
        return self.shares(values) / self.counts

    def members(self) -> list[Int64]:
        """[E] the sequences of each episode."""
        order = np.argsort(self.episodes, kind="stable")
        edges = np.cumsum(np.bincount(self.episodes, minlength=self.num_episodes))
        return np.split(self.sequences[order], edges[:-1])


def alone(count: int) -> Episodes:
    """As many episodes as sequences, one each."""
    each = np.arange(count)
    return Episodes(num_sequences=count, num_episodes=count, sequences=each, episodes=each)


def episodes_among(sequences: Sequence[ScoredSequence]) -> tuple[Episodes, Float64]:
    """The episodes of some sequences of one tree, and their returns [E].

    One that ends with a sequence that is not among them is an episode of those that are.
    """
    of_each = [s.episodes or ((s.leaf, s.sequence_return),) for s in sequences]
    places: dict[int, int] = {}
    for own in of_each:
        for end, _ in own:
            places.setdefault(end, len(places))
    returns = np.zeros(len(places))
    for end, earned in (pair for own in of_each for pair in own):
        returns[places[end]] = earned
    pairs = [(b, places[end]) for b, own in enumerate(of_each) for end, _ in own]
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    episodes = Episodes(
        num_sequences=len(sequences), num_episodes=len(places), sequences=columns[0], episodes=columns[1]
    )
    return episodes, returns


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Those of several trees, one after the other."""
    before_b = np.cumsum([0, *(p.num_sequences for p in parts)])
    before_e = np.cumsum([0, *(p.num_episodes for p in parts)])
    none = np.empty(0, np.int64)
    return Episodes(
        num_sequences=int(before_b[-1]),
        num_episodes=int(before_e[-1]),
        sequences=np.concatenate(
            [none, *(p.sequences + n for p, n in zip(parts, before_b[:-1], strict=True))]
        ),
        episodes=np.concatenate([none, *(p.episodes + n for p, n in zip(parts, before_e[:-1], strict=True))]),
    )
