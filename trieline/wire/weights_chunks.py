"""Which chunks are on their way, so that peers who ask and never read can't fill the learner's memory.

A peer has some chunks on its way, enough to fill a long line, and few peers have some at a time, fewer still
of those that the run does not know; the others wait for their turn. A peer's turn is over when it says
something else after it has asked for the last one.
"""

import math
import time
from dataclasses import dataclass, field

from trieline.wire.codec import InFrame
from trieline.wire.messages import ChunkRequest

MAX_FETCHING = 16
MAX_STRANGERS = 8
MAX_WAITING = 1_024
WINDOW = 8
"""Chunks of a peer. Of 2 MB they fill a line of 1 Gbit/s on which an answer takes 130 ms."""

_Key = tuple[int, int]
"""(policy_version, offset)"""


@dataclass(slots=True)
class _Turn:
    """Of one peer."""

    frame: InFrame
    """Came by the connection that the chunks go out by."""
    since: float = 0.0
    """Of the chunk that was sent last."""
    is_last: bool = False
    """It is the file's last one."""
    sent: dict[_Key, float] = field(default_factory=dict)
    """When the newest ones were."""


class ChunkTraffic:
    """Peers are known by their address on the socket."""

    def __init__(self, *, repeat_s: float, timeout_s: float) -> None:
        """`repeat_s`: a chunk is not sent again sooner. `timeout_s`: a peer loses its turn after so long."""
        self._repeat_s = repeat_s
        self._timeout_s = timeout_s
        self._turns: dict[bytes, _Turn] = {}
        self._waiting: dict[bytes, dict[_Key, tuple[ChunkRequest, InFrame]]] = {}

    def may_send(
        self, peer: bytes, request: ChunkRequest, frame: InFrame, *, is_last: bool, joined: bool
    ) -> bool:
        """Whether the chunk is to be sent now; noted as on its way if so, and kept for later if not.

        `joined`: the peer has served a version of this learner.
        """
        key, now = (request.policy_version, request.offset), time.monotonic()
        turn = self._turns.get(peer)
        if turn is None:
            if len(self._turns) >= (MAX_FETCHING if joined else MAX_STRANGERS):
                self._keep(peer, key, request, frame)
                return False
            turn = self._turns[peer] = _Turn(frame)
            self._waiting.pop(peer, None)
        if now - turn.sent.get(key, -math.inf) < self._repeat_s:
            return False
        turn.sent.pop(key, None)
        turn.frame, turn.since, turn.is_last, turn.sent[key] = frame, now, is_last, now
        if len(turn.sent) > WINDOW:
            del turn.sent[next(iter(turn.sent))]
        return True

    def _keep(self, peer: bytes, key: _Key, request: ChunkRequest, frame: InFrame) -> None:
        if peer in self._waiting or len(self._waiting) < MAX_WAITING:
            kept = self._waiting.setdefault(peer, {})
            if len(kept) < WINDOW:
                kept[key] = request, frame

    def heard(self, peer: bytes) -> None:
        """The peer said something else than that it wants a chunk."""
        turn = self._turns.get(peer)
        if turn is not None and turn.is_last:
            del self._turns[peer]

    def forget(self, peer: bytes) -> None:
        """The peer is gone."""
        self._turns.pop(peer, None)
        self._waiting.pop(peer, None)

    def overdue(self) -> list[InFrame]:
        """Frames of those who took too long: their turn is over, and their connections are to be closed.

        What they did not read would stay in memory.
        """
        long_ago = time.monotonic() - self._timeout_s
        late = [peer for peer, turn in self._turns.items() if turn.since < long_ago]
        return [self._turns.pop(peer).frame for peer in late]

    def waiting(self) -> list[tuple[bytes, ChunkRequest, InFrame]]:
        """Who may have a turn now, with what each wants."""
        if len(self._turns) >= MAX_FETCHING:
            return []
        return [(peer, *one) for peer, kept in self._waiting.items() for one in kept.values()]
