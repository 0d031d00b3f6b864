"""The chats of one session, and where in them a request goes on.

Invariant: what a reply's tokens were is looked up by what the reply said, and the deepest reply that a
request repeats is the one it goes on from. Nothing that the policy sampled is ever written again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from trieline.actors.gateway.exchange import Exchange
from trieline.actors.gateway.spoken import keys, later_key, start_key
from trieline.common.message import Message, Tool


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a request goes on."""

    parent: int
    """The exchange whose reply it repeats last; -1: it repeats none."""
    said: tuple[Message, ...]
    """What it says after that; never empty."""
    tools: tuple[Tool, ...]
    """Those of the window."""


@dataclass(kw_only=True, slots=True)
class History:
    """Grows with each exchange."""

    exchanges: list[Exchange] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    """[exchanges] those that go on from each."""
    led: set[int] = field(default_factory=set)
    """Exchanges that lead to a later one (`Lead`)."""
    _starts: dict[bytes, tuple[Tool, ...]] = field(default_factory=dict)
    _ends: dict[bytes, int] = field(default_factory=dict)
    """The chat up to and with each reply. Of equal ones, the last."""
    _end_keys: list[bytes] = field(default_factory=list)
    _said: list[int] = field(default_factory=list)
    """[exchanges] replies in the window up to and with each."""

    def add(self, exchange: Exchange) -> None:
        """The next exchange."""
        parent = exchange.parent
        if parent < 0:
            before = start_key(exchange.tools)
            self._starts[before] = exchange.tools
        else:
            before = self._end_keys[parent]
            self.children[parent].append(exchange.number)
        for message in (*exchange.said, exchange.reply):
            before = later_key(before, message)
        self._ends[before] = exchange.number
        self._end_keys.append(before)
        own = 1 + sum(message.role == "assistant" for message in exchange.said)
        self._said.append(own + (self._said[parent] if parent >= 0 else 0))
        self.exchanges.append(exchange)
        self.led.update(lead.source for lead in exchange.leads)
        self.children.append([])

    def place(self, messages: Sequence[Message], tools: tuple[Tool, ...]) -> Place:
        """Where a chat goes on that ends with something for the model to reply to.

        Tools that a request leaves out, as harnesses do when they ask for a summary, stay those of its
        window: the model was told of them in its first message, which is long past.
        """
        found = self._deepest(start_key(tools), messages)
        window = tools
        if not tools:
            for start, others in self._starts.items():
                if others and (deeper := self._deepest(start, messages)) > found:
                    found, window = deeper, others
        parent, count = found[1], found[0]
        return Place(parent=parent, said=tuple(messages[count:]), tools=window)

    def replies(self, number: int) -> int:
        """Of the window, up to and with that of this exchange; 0 for -1."""
        return self._said[number] if number >= 0 else 0

    def chain(self, number: int) -> list[int]:
        """The exchanges of the window up to `number`, the first one first."""
        found = []
        while number >= 0:
            found.append(number)
            number = self.exchanges[number].parent
        return found[::-1]

    def tips(self) -> list[int]:
        """The exchanges from which none goes on, but such as are no work of the agent's."""
        side = [exchange.side for exchange in self.exchanges]
        return [
            number
            for number, following in enumerate(self.children)
            if not side[number] and all(side[child] for child in following)
        ]

    def _deepest(self, start: bytes, messages: Sequence[Message]) -> tuple[int, int]:
        """How many messages are known, and the exchange that ends there; (0, -1) if none does."""
        found = (0, -1)
        for count, key in enumerate(keys(start, messages[:-1]), start=1):
            if messages[count - 1].role == "assistant" and (number := self._ends.get(key)) is not None:
                found = (count, number)
        return found
