"""Figures that add up: kept as sums, counts and extremes until they are written.

Whoever computes a share of a step (a pack, a process) tallies its share; the tallies are added, and only then
divided. Read as a mapping, a tally gives the figures themselves.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Tally(Mapping[str, float]):
    """A figure goes by one name, and is always added in the same way."""

    totals: dict[str, float] = field(default_factory=dict)
    """Figures that are sums."""
    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Sum and count: means, and ratios of two sums."""
    deviations: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Count, sum and sum of squares: standard deviations."""
    maxima: dict[str, float] = field(default_factory=dict)
    minima: dict[str, float] = field(default_factory=dict)

    def add_total(self, name: str, value: float) -> None:
        """One more share of a sum."""
        self.totals[name] = self.totals.get(name, 0.0) + value

    def add_mean(self, name: str, total: float, count: float) -> None:
        """`count` more numbers that add up to `total`."""
        old_total, old_count = self.means.get(name, (0.0, 0.0))
        self.means[name] = (old_total + total, old_count + count)

    def add_deviation(self, name: str, count: float, total: float, squares: float) -> None:
        """`count` more numbers, their sum and the sum of their squares."""
        old = self.deviations.get(name, (0.0, 0.0, 0.0))
        self.deviations[name] = (old[0] + count, old[1] + total, old[2] + squares)

    def add_maximum(self, name: str, value: float) -> None:
        """A number that may be the largest."""
        self.maxima[name] = max(self.maxima.get(name, -math.inf), float(value))

    def add_minimum(self, name: str, value: float) -> None:
        """A number that may be the smallest."""
        self.minima[name] = min(self.minima.get(name, math.inf), float(value))

    def add(self, other: "Tally") -> None:
        """All of another one, of other packs, trees or processes."""
        for name, value in other.totals.items():
            self.add_total(name, value)
        for name, (total, count) in other.means.items():
            self.add_mean(name, total, count)
        for name, (count, total, squares) in other.deviations.items():
            self.add_deviation(name, count, total, squares)
        for name, value in other.maxima.items():
            self.add_maximum(name, value)
        for name, value in other.minima.items():
            self.add_minimum(name, value)

    def figures(self) -> dict[str, float]:
        """What is written, by name. Means of nothing are left out."""
        return {
            **self.totals,
            **{name: total / count for name, (total, count) in self.means.items() if count},
            **{name: _deviation(*sums) for name, sums in self.deviations.items() if sums[0]},
            **self.maxima,
            **self.minima,
        }

    def __getitem__(self, name: str) -> float:
        return self.figures()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures())

    def __len__(self) -> int:
        return len(self.figures())


def _deviation(count: float, total: float, squares: float) -> float:
    mean = total / count
    return math.sqrt(max(0.0, squares / count - mean * mean))
