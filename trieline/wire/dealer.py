"""The connecting end of a link, for asyncio: it knows when a connection is new, and sends only on a live one.

What was handed to a connection that broke is gone; the owner gives it again when `on_connect` is called. So
nothing is queued for a peer that is away, and nothing is lost when that peer comes back as a new process.

ZeroMQ connects again by itself, and gives the new peer what waits in the socket before the owner has heard of
it. So nothing waits there: the owner is asked for a message once there is room for it, on a connection that
it knows of.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import zmq
import zmq.asyncio

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.codec import InFrame, OutFrame
from trieline.wire.config import LinksConfig
from trieline.wire.connection import Connection
from trieline.wire.errors import WireError
from trieline.wire.gate import check_peer

logger = logging.getLogger(__name__)

# Whole messages. Full: `_write` waits, and what is to be sent stays with the owner.
SEND_QUEUE = 64
# As plain numbers: with an enumeration's members, its own arithmetic would be a good part of a send.
IN, OUT = int(zmq.POLLIN), int(zmq.POLLOUT)
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


class Dealer:
    """One DEALER socket and the tasks that serve it.

    `next_frames` gives the next message to send, or None if there is none now; `wake` says that there is one
    again. `on_message` gets the frames of each message received. `on_connect` is called for each new
    connection before anything more is sent, `on_failure` if a task of this socket ended with an error.
    """

    def __init__(
        self,
        links: LinksConfig,
        address: str,
        *,
        name: str,
        next_frames: Callable[[], Sequence[OutFrame] | None],
        on_message: Callable[[Sequence[InFrame]], None],
        on_connect: Callable[[], None],
        on_failure: Callable[[], None],
        routing_id: bytes | None = None,
    ) -> None:
        check_peer(address, links.keys)
        self.address = address
        self.connected = False
        self.connections = 0
        self.heard_at = time.monotonic()
        self.failure: Exception | None = None
        self._links = links
        self._name = name
        self._next_frames = next_frames
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_failure = on_failure
        self._routing_id = routing_id
        self._complaints = Complaints(address)
        self._wake = asyncio.Event()
        self._context: zmq.asyncio.Context | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to connect. Raises AddressError; nothing is open then."""
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        sockets.limit(self._socket, self._links, send_queue=SEND_QUEUE)
        # No queue for a peer that is away, and none kept when a connection breaks.
        self._socket.immediate = True
        if self._routing_id is not None:
            self._socket.routing_id = self._routing_id
        self._room = zmq.asyncio.Poller()
        self._room.register(self._socket, zmq.POLLOUT)
        # Sends there and then. What it takes of the socket's news, `_has_room` tells to `_read`.
        self._out: zmq.Socket[bytes] = zmq.Socket.shadow(self._socket)
        try:
            self._connection = Connection(self._socket, self.address, self._links.keys, self._complaints)
        except BaseException:
            context, self._context = self._context, None
            context.destroy(linger=0)
            raise
        self._tasks = [
            asyncio.create_task(self._guard(loop())) for loop in (self._watch, self._write, self._read)
        ]

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def silent_s(self) -> float:
        """Seconds since the peer was last heard."""
        return time.monotonic() - self.heard_at

    def state(self) -> str:
        """For error messages: whether the peer is connected and when it was last heard."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        if not self.connected:
            refusal = self._connection.refusal if self._context is not None else ""
            return f"refused: {refusal}" if refusal else "not connected"
        return f"connected, last heard {self.silent_s():.1f} s ago"

    def expect_alive(self) -> None:
        """Raise WireError if a task of this socket failed."""
        if self.failure is not None:
            msg = f"the link of {self._name} to {self.address} failed: {self.failure}"
            raise WireError(msg) from self.failure

    async def close(self, last_words: Sequence[OutFrame] | None = None) -> None:
        """Send `last_words` if that takes no waiting, and close. Idempotent."""
        if self._context is None:
            return
        context, self._context = self._context, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if last_words is not None and self.connected:
            with contextlib.suppress(zmq.ZMQError):
                self._out.send_multipart(last_words, zmq.NOBLOCK)
        self.connected = False
        self._connection.close()
        self._socket.close()
        # Waits for at most the linger time, so not in the event loop.
        await asyncio.to_thread(context.term)

    async def _guard(self, loop: Awaitable[None]) -> None:
        try:
            await loop
        except Exception as error:
            logger.exception("The link of %s to %s failed", self._name, self.address)
            self.failure = error
            self._on_failure()

    async def _watch(self) -> None:
        while True:
            wait_s = self._connection.wait_s()
            await self._connection.monitor.poll(None if wait_s is None else math.ceil(1000 * wait_s))
            self._note_news()

    def _note_news(self) -> None:
        """Take in all that has happened to the connection up to now."""
        for up in self._connection.news():
            self.connected = up
            if up:
                self.connections += 1
                self.heard_at = time.monotonic()
                logger.debug("%s is connected to %s", self._name, self.address)
                self._on_connect()
                self._wake.set()
            else:
                self._complaints.add("connections lost that are tried again", self._name)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._has_room() and (frames := self._next_frames()) is not None:
                self._send(frames)

    async def _has_room(self) -> bool:
        """Wait until the connection that the owner knows of takes a message. False: there is none."""
        while True:
            # What room there is may be that of the next connection, while `_watch` has not had its turn.
            self._note_news()
            events = int(self._socket.get(zmq.EVENTS))
            if not self.connected:
                return False
            if events & OUT:
                return True
            await self._room.poll()

    def _send(self, frames: Sequence[OutFrame]) -> None:
        for at, frame in enumerate(frames):
            try:
                self._out.send(frame, MORE if at + 1 < len(frames) else LAST, copy=False)
            except zmq.Again:
                # The connection ends just now. Amid a message, libzmq drops what comes till a last frame: it
                # gets the rest of this message, or the next connection would lack its first one.
                if at == 0:
                    return

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            self.heard_at = time.monotonic()
            self._on_message(frames)
