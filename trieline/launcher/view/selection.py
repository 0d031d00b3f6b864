"""Which trees of a recording are shown, and what is said of the others."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from trieline.config import ConfigError
from trieline.launcher.recording import Recording
from trieline.wire.messages import TreeDelivery

MOST_TREES = 300
"""Unless more are asked for."""
MOST_TOKENS = 3_000_000
"""Of all trees of a page together: 45 MB at most, which a browser opens in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was asked for."""

    most: int = MOST_TREES
    """Trees; where there are more, as many as that, evenly spaced."""
    first: int = 0
    last: int | None = None
    """Numbers of records in the journal, both included; None: its last."""
    env_ids: tuple[str, ...] = ()
    """Empty: all environments."""

    def __post_init__(self) -> None:
        if self.most < 1:
            msg = f"expected at least one tree to show (--tasks), got {self.most}"
            raise ConfigError(msg)
        if self.first < 0 or (self.last is not None and self.last < self.first):
            msg = f"expected 0 <= --from <= --to, got --from {self.first} and --to {self.last}"
            raise ConfigError(msg)

    def holds(self, number: int, delivery: TreeDelivery) -> bool:
        """Whether this record is one that was asked for."""
        beyond = self.last is not None and number > self.last
        return not beyond and (not self.env_ids or delivery.tree.env_id in self.env_ids)


@dataclass(kw_only=True, slots=True)
class Chosen:
    """The trees that are shown. Read once: afterwards it knows what was left out."""

    recording: Recording
    selection: Selection
    matching: int = 0
    """Trees that were asked for."""
    shown: int = 0
    too_large: int = 0
    numbers: set[int] = field(default_factory=set)

    def __iter__(self) -> Iterator[tuple[int, TreeDelivery]]:
        """Number in the journal, and tree.

        Raises:
            ConfigError: none was asked for.
            JournalError: one can't be read.
        """
        asked_for = [number for number, _ in self._asked_for()]
        if not asked_for:
            msg = f"expected trees to show in {self.recording.path}, found none that was asked for"
            raise ConfigError(msg)
        self.matching = len(asked_for)
        places = np.linspace(0, self.matching - 1, min(self.selection.most, self.matching)).round()
        self.numbers = {asked_for[int(place)] for place in places}
        tokens = 0
        for number, delivery in self._asked_for():
            if number not in self.numbers:
                continue
            if tokens + delivery.tree.num_tokens > MOST_TOKENS:
                self.too_large += 1
                continue
            tokens += delivery.tree.num_tokens
            self.shown += 1
            yield number, delivery

    def note(self) -> str:
        """What was left out; empty: nothing."""
        parts = []
        if len(self.numbers) < self.matching:
            parts.append(
                f"{len(self.numbers)} of {self.matching} trees, evenly spaced from first to last "
                f"(--tasks takes more)"
            )
        if self.too_large:
            parts.append(
                f"{self.too_large} trees left out, with which the page would hold more than "
                f"{MOST_TOKENS:,} tokens (--from and --to choose others)"
            )
        return "; ".join(parts)

    def _asked_for(self) -> Iterator[tuple[int, TreeDelivery]]:
        first, last = self.selection.first, self.selection.last
        for number, delivery in enumerate(self.recording.deliveries(first=first), start=first):
            if last is not None and number > last:
                return
            if self.selection.holds(number, delivery):
                yield number, delivery
