"""Which chunks are on their way, so that peers who ask and never read can't fill the learner's memory.

A peer has one chunk on its way, and few peers have one at a time, fewer still of those that the run does not
know; the others wait for their turn. A chunk has arrived when its receiver asks for the next, or says
something else after the last one.
"""

import time
from dataclasses import dataclass, field

from trieline.wire.codec import InFrame
from trieline.wire.messages import ChunkRequest

MAX_FETCHING = 16
MAX_STRANGERS = 8
MAX_WAITING = 1_024


@dataclass(slots=True)
class _Flight:
    request: ChunkRequest
    frame: InFrame
    """Came by the connection that the chunk goes out by."""
    is_last: bool
    since: float = field(default_factory=time.monotonic)


class ChunkTraffic:
    """Peers are known by their address on the socket."""

    def __init__(self, *, repeat_s: float, timeout_s: float) -> None:
        """`repeat_s`: a chunk is not sent again sooner. `timeout_s`: a peer loses its turn after so long."""
        self._repeat_s = repeat_s
        self._timeout_s = timeout_s
        self._flying: dict[bytes, _Flight] = {}
        self._waiting: dict[bytes, tuple[ChunkRequest, InFrame]] = {}

    def may_send(
        self, peer: bytes, request: ChunkRequest, frame: InFrame, *, is_last: bool, joined: bool
    ) -> bool:
        """Whether the chunk is to be sent now; noted as on its way if so, and kept for later if not.

        `joined`: the peer has served a version of this learner.
        """
        flight = self._flying.get(peer)
        if flight is not None:
            repeated = flight.request == request
            if repeated and time.monotonic() - flight.since < self._repeat_s:
                return False
        elif len(self._flying) >= (MAX_FETCHING if joined else MAX_STRANGERS):
            if len(self._waiting) < MAX_WAITING:
                self._waiting[peer] = request, frame
            return False
        self._waiting.pop(peer, None)
        self._flying[peer] = _Flight(request, frame, is_last)
        return True

    def heard(self, peer: bytes) -> None:
        """The peer said something else than that it wants a chunk."""
        flight = self._flying.get(peer)
        if flight is not None and flight.is_last:
            del self._flying[peer]

    def forget(self, peer: bytes) -> None:
        """The peer is gone, or got what it asked for."""
        self._flying.pop(peer, None)
        self._waiting.pop(peer, None)

    def overdue(self) -> list[InFrame]:
        """Frames of those who took too long: their turn is over, and their connections are to be closed.

        What they did not read would stay in memory.
        """
        long_ago = time.monotonic() - self._timeout_s
        late = [peer for peer, flight in self._flying.items() if flight.since < long_ago]
        return [self._flying.pop(peer).frame for peer in late]

    def waiting(self) -> list[tuple[bytes, ChunkRequest, InFrame]]:
        """Who may have a turn now, with what each wants."""
        if len(self._flying) >= MAX_FETCHING:
            return []
        return [(peer, request, frame) for peer, (request, frame) in self._waiting.items()]
