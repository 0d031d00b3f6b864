"""One policy server as a client sees it: a connection, and what was asked over it.

What was asked is asked again on every new connection, and when the server was silent for `peer_timeout_s`.
Asking again is harmless: a request keeps its id, and the server leaves out what it is already working on. A
server that is only slow says between its steps that it lives, and is left alone.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trieline.wire.codec import InFrame, OutFrame, encode
from trieline.wire.config import LinksConfig
from trieline.wire.dealer import Dealer
from trieline.wire.messages import Cancel, ServerToActor, StatusRequest

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Pending:
    """One question that waits for its answer."""

    request_id: int
    frames: Sequence[OutFrame]
    answer: asyncio.Future[ServerToActor]
    order: Sequence["ServerLink"]
    """The servers, the one that is to answer first."""
    link: "ServerLink"
    """The one that was asked."""
    refused_by: set["ServerLink"] = field(default_factory=set)
    refusal: str = ""
    """The last one that invited to ask again."""
    repeats: int = 0


class ServerLink:
    """Belongs to one event loop."""

    def __init__(
        self,
        links: LinksConfig,
        address: str,
        *,
        routing_id: bytes,
        on_message: Callable[["ServerLink", Sequence[InFrame]], None],
        on_connect: Callable[["ServerLink"], None],
        on_failure: Callable[["ServerLink"], None],
    ) -> None:
        self.address = address
        self.open: dict[int, Pending] = {}
        """What this server was asked and has not answered."""
        self.heard_at = time.monotonic()
        """When it last said something between two steps."""
        self._links = links
        self._to_send: deque[int] = deque()
        self._words: deque[StatusRequest | Cancel] = deque()
        self._asked_again_at = time.monotonic()
        self._silent_since: float | None = None
        self._on_connect = on_connect
        self.dealer = Dealer(
            links,
            address,
            name="policy client",
            next_frames=self._next_frames,
            on_message=lambda frames: on_message(self, frames),
            on_connect=self._connected,
            on_failure=lambda: on_failure(self),
            routing_id=routing_id,
        )

    def usable(self) -> bool:
        """Connected, and not silent when an answer was due."""
        silent = self._silent_since is not None and self.heard_at <= self._silent_since
        return self.dealer.failure is None and self.dealer.connected and not silent

    def ask(self, pending: Pending) -> None:
        """Ask, when there is a connection."""
        pending.link = self
        self.open[pending.request_id] = pending
        self._to_send.append(pending.request_id)
        self.dealer.wake()

    def withdraw(self, request_id: int) -> None:
        """Nobody waits for this answer any more, from here."""
        if self.open.pop(request_id, None) is not None and self.dealer.connected:
            self._words.append(Cancel(request_id=request_id))
            self.dealer.wake()

    def is_silent(self) -> bool:
        """Look once in a heartbeat: whether answers are due and nothing was heard for too long."""
        if not self.dealer.connected or not self.open:
            # Nobody asks, so the server has no reason to speak.
            self._asked_again_at = time.monotonic()
            return False
        if time.monotonic() - max(self._asked_again_at, self.heard_at) <= self._links.peer_timeout_s:
            return False
        logger.warning(
            "The policy server at %s was silent for %.1f s with %d requests open: asking again",
            self.address,
            time.monotonic() - self.heard_at,
            len(self.open),
        )
        self._asked_again_at = self._silent_since = time.monotonic()
        return True

    def ask_all_again(self) -> None:
        """All that still waits, in order; what a broken connection had taken is among it."""
        self._to_send = deque(self.open)
        self.dealer.wake()

    def ping(self, request_id: int) -> None:
        """Have the server say that it lives."""
        if self.dealer.connected and not any(isinstance(word, StatusRequest) for word in self._words):
            self._words.append(StatusRequest(request_id=request_id))
            self.dealer.wake()

    def _connected(self) -> None:
        # What was to be said was said of the requests of the last connection.
        self._words.clear()
        self.heard_at = time.monotonic()
        if self.dealer.connections > 1:
            for pending in self.open.values():
                pending.repeats += 1
        self.ask_all_again()
        self._on_connect(self)

    def _next_frames(self) -> Sequence[OutFrame] | None:
        if self._words:
            return encode(self._words.popleft())
        while self._to_send:
            pending = self.open.get(self._to_send.popleft())
            if pending is not None:
                return pending.frames
        return None
