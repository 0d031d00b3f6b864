"""How every socket of Trieline is made: bounded queues, bounded messages, bounded waits.

One context for each link, so that closing a link closes all it opened, and a forked worker that makes its own
link shares nothing with its parent.
"""

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from trieline.common.file_lock import try_lock
from trieline.wire.addresses import (
    check_address,
    forms_here,
    is_ipv6,
    needs_ipv6,
    reason_against,
    reason_of,
)
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.gate import keys_for, secure_bound, secure_connected

logger = logging.getLogger(__name__)

# What a closed socket may still take to hand its last words (a goodbye, a stop) to the kernel.
LINGER_MS = 200
CONNECT_TIMEOUT_MS = 5_000
RECONNECT_MS = 100
RECONNECT_MAX_MS = 2_000
# Of max_message_bytes. ZeroMQ cuts the connection of a larger frame without a word to anyone, so what is only
# a little too large goes through to the decoder, which can say so, and to whom.
CUT_FRAMES_ABOVE = 1.25
KEEPALIVE_PROBES = 5
# While somebody else binds a path in the same folder.
ALONE_S = 2.0
ALONE_POLL_S = 0.01


def limit(zmq_socket: zmq.Socket[Any], links: LinksConfig, *, send_queue: int) -> None:
    """Set every bound of a socket before it is bound or connected.

    `send_queue`: whole messages for each peer; what happens when it is full is said where the socket is made.
    A frame larger than `CUT_FRAMES_ABOVE` x `links.max_message_bytes` closes the connection it came by; what
    is larger than `links.max_message_bytes` itself is refused by `decode`.

    ZeroMQ's own receive queue has no limit, and its heartbeats are off: where its reading from a peer is
    stopped (by a full queue, or because another took the peer's name over) and the connection then breaks,
    libzmq 4.3.5 aborts the whole process at the next heartbeat, be it ours or one of the peer's that waits in
    the queue. So whoever owns a bound socket reads it all the time, and bounds what it keeps (see `Inbox`).
    A message of frames without end is out of reach: ZeroMQ keeps it to itself until the last one has come.
    The kernel notices a machine that vanished.
    """
    zmq_socket.sndhwm = send_queue
    zmq_socket.rcvhwm = 0
    zmq_socket.heartbeat_ivl = 0
    zmq_socket.linger = LINGER_MS
    zmq_socket.maxmsgsize = math.ceil(CUT_FRAMES_ABOVE * links.max_message_bytes)
    zmq_socket.connect_timeout = CONNECT_TIMEOUT_MS
    zmq_socket.reconnect_ivl = RECONNECT_MS
    zmq_socket.reconnect_ivl_max = RECONNECT_MAX_MS
    zmq_socket.tcp_keepalive = 1
    zmq_socket.tcp_keepalive_idle = max(1, round(links.peer_timeout_s / 2))
    zmq_socket.tcp_keepalive_intvl = max(1, round(links.peer_timeout_s / 2 / KEEPALIVE_PROBES))
    zmq_socket.tcp_keepalive_cnt = KEEPALIVE_PROBES
    # While something is under way to it, too.
    zmq_socket.setsockopt(zmq.TCP_MAXRT, round(1000 * links.peer_timeout_s))


def bind(zmq_socket: zmq.Socket[Any], address: str, keys: str = "") -> None:
    """Bind, or raise AddressError that says what is wrong with the address. `keys`: as in `LinksConfig`.

    Where `address` can be reached from other machines the context needs a `Gate`.
    """
    check_address(address)
    if address.startswith("ipc://"):
        with _alone_in(Path(address.removeprefix("ipc://")).parent):
            reason = reason_against(address) or _bind(zmq_socket, address)
    else:
        secure_bound(zmq_socket, address, keys)
        reason = None
        for form in forms_here(address):
            if (reason := _bind(zmq_socket, form)) is None:
                break
    if reason is not None:
        msg = f"can't bind {address}: {reason}"
        raise AddressError(msg)


def reason_against_binding(address: str, keys: str = "") -> str | None:
    """Why a socket can't be bound to `address` now, for want of keys or else; None if it can."""
    try:
        check_address(address)
        keys_for(address, keys)
    except AddressError as error:
        return str(error)
    return reason_against(address)


def _bind(zmq_socket: zmq.Socket[Any], form: str) -> str | None:
    """The reason why it can't, None if it is bound."""
    zmq_socket.ipv6 = is_ipv6(form)
    try:
        zmq_socket.bind(form)
    except zmq.ZMQError as error:
        return reason_of(error.errno or 0, form)
    return None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of those who bind a path, one at a time: two that look at once would both find it free.

    ZeroMQ deletes what is at a path, so the second would take it from the first, which nobody then reaches.
    A stranger may hold the lock, too, and is not waited for.
    """
    with contextlib.ExitStack() as stack:
        # A folder that is not there: looking for what is against the path says so.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            deadline = time.monotonic() + ALONE_S
            while not try_lock(descriptor) and time.monotonic() < deadline:
                time.sleep(ALONE_POLL_S)
        yield


def connect(zmq_socket: zmq.Socket[Any], address: str, keys: str = "") -> None:
    """Connect in the background, again and again until somebody listens. Raises AddressError."""
    check_address(address)
    secure_connected(zmq_socket, address, keys)
    try:
        zmq_socket.ipv6 = needs_ipv6(address)
    except AddressError as error:
        # Perhaps only as long as that machine has not started.
        logger.warning("can't connect to %s: %s; it is tried again and again", address, error)
    try:
        zmq_socket.connect(address)
    except zmq.ZMQError as error:
        msg = f"can't connect to {address}: {error}"
        raise AddressError(msg) from error


class Waker:
    """Wakes a thread that polls its sockets. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        # Full: a wake-up is on its way already. Closed: nobody is left to wake.
        with contextlib.suppress(OSError):
            self._writer.send(b"x")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
