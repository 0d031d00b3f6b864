"""One session: what an agent asked on one task, and what came of it.

A session is made of its events alone (`exchange`), each applied in turn, whether it happens now or is read
from the disk.
"""

import math
from dataclasses import dataclass, field

from trieline.actors.gateway.exchange import Closed, Event, Exchange, Opened, Rewarded, Seated
from trieline.actors.gateway.history import History
from trieline.common.numbers import MAX_REWARD


@dataclass(kw_only=True, slots=True)
class Session:
    """Of one agent and what it sends out."""

    opened: Opened
    seated: Seated | None = None
    history: History = field(default_factory=History)
    rewards: list[Rewarded] = field(default_factory=list)
    closed: Closed | None = None
    calls: int = 0
    """That the replies made so far, for their ids."""

    def apply(self, event: Event) -> None:
        """The next event."""
        if isinstance(event, Exchange):
            self.history.add(event)
            self.calls += len(event.reply.tool_calls)
        elif isinstance(event, Rewarded):
            self.rewards.append(event)
        elif isinstance(event, Seated):
            self.seated = event
        elif isinstance(event, Closed):
            self.closed = event
            if event.reward is not None:
                self.rewards.append(Rewarded(reward=event.reward))
        else:
            self.opened = event

    @property
    def exchanges(self) -> list[Exchange]:
        return self.history.exchanges

    def exchange_of(self, request_id: str) -> Exchange | None:
        """The one whose reply has this id, with or without the prefix of an API."""
        return next((e for e in self.exchanges if request_id.endswith(e.request_id)), None)

    @property
    def sampled_tokens(self) -> int:
        return sum(len(exchange.completion.token_ids) for exchange in self.exchanges)


def reward_of(value: object) -> float | None:
    """A reward that somebody sent; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) <= MAX_REWARD else None
