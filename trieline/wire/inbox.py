"""Messages that were read from a socket and wait to be handled: bounded in bytes, and each peer has a share.

Peers are served in turn, one message each, so that one that floods delays the others by no more than its
turns. Within a peer the order is kept.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

import zmq

from trieline.wire.codec import InFrame, num_bytes

# What Python keeps for a message beside its bytes, generously: so that a share of tiny ones is bounded, too.
MESSAGE_COST = 1024


class Inbox:
    """Plain bookkeeping of one thread."""

    def __init__(self, *, most_bytes: int, share_bytes: int) -> None:
        """`most_bytes`: of all messages together. `share_bytes`: of those of one peer."""
        self._most_bytes = most_bytes
        self._share_bytes = share_bytes
        self._bytes = 0
        self._bytes_of: dict[bytes, int] = {}
        self._waiting: dict[bytes, deque[tuple[Sequence[InFrame], int]]] = {}
        self._turns: deque[bytes] = deque()

    def __len__(self) -> int:
        """Peers of which something waits."""
        return len(self._turns)

    def add(self, peer: bytes, frames: Sequence[InFrame]) -> bool:
        """Keep a message. False: it has no room, and is dropped."""
        size = num_bytes(frames) + MESSAGE_COST
        share = self._bytes_of.get(peer, 0) + size
        if share > self._share_bytes or self._bytes + size > self._most_bytes:
            return False
        self._bytes += size
        self._bytes_of[peer] = share
        if (waiting := self._waiting.get(peer)) is None:
            self._waiting[peer] = deque(((frames, size),))
            self._turns.append(peer)
        else:
            waiting.append((frames, size))
        return True

    def take(self) -> tuple[bytes, Sequence[InFrame]]:
        """The next message of the peer whose turn it is. Raises IndexError if none waits."""
        peer = self._turns.popleft()
        waiting = self._waiting[peer]
        frames, size = waiting.popleft()
        self._bytes -= size
        if waiting:
            self._bytes_of[peer] -= size
            self._turns.append(peer)
        else:
            del self._waiting[peer], self._bytes_of[peer]
        return peer, frames


def cut_off(frame: InFrame) -> None:
    """End the connection that a frame came by.

    An honest peer connects again and repeats what was not answered. If the connection has ended already, its
    descriptor may be another peer's by now, which then connects again, too.
    """
    if not isinstance(frame, zmq.Frame):
        return
    with contextlib.suppress(OSError, zmq.ZMQError):
        descriptor = os.dup(int(frame.get(zmq.SRCFD)))
        with socket.socket(fileno=descriptor) as connection:
            connection.shutdown(socket.SHUT_RDWR)
