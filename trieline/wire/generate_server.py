"""The policy server's end of the generate link: reads requests, leaves out repeats, answers.

Every request is bounded and checked before the server sees it; what is malformed is refused here. What a peer
asked for that has gone is cancelled: it would be worked on for nobody.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Sequence

import msgspec
import numpy as np
import zmq

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, MessageError
from trieline.wire.gate import Gate
from trieline.wire.inbox import Inbox, cut_off
from trieline.wire.messages import (
    ActorToServer,
    Cancel,
    Completion,
    GenerateRefusal,
    GenerateRequest,
    ServerAlive,
    ServerStatus,
    ServerToActor,
    StatusRequest,
)
from trieline.wire.socket_thread import Context, SocketThread

# Whole messages for each actor. Full: the reply is dropped; as there are never more replies than requests,
# that actor does not read at all.
SEND_QUEUE = 100_000
# Messages moved from the socket to the inbox before replies get their turn.
READ_AT_ONCE = 256
# Unread requests, in the largest messages allowed: of one peer, and of all. Far more than the actors of a run
# have; a peer beyond it is cut off, connects again, and asks again.
SHARE_MESSAGES = 2
INBOX_MESSAGES = 8
# Requests read in one `poll`; the others wait for the next. As many of the longest take some 20 ms.
POLL_AT_ONCE = 256

Message = GenerateRequest | StatusRequest | Cancel


class GenerateServer:
    """The policy server's end. Its methods are for one thread; another reads the socket all the time."""

    def __init__(self, links: LinksConfig) -> None:
        self.malformed = 0
        self.duplicates = 0
        """Requests that came again while they were being worked on."""
        self.address = ""
        """Where it is bound."""
        self._links = links
        self._open: dict[bytes, set[int]] = {}
        """The requests of each peer that has some."""
        self._next_look = 0.0
        self._complaints = Complaints("generate")
        self._replies: queue.SimpleQueue[tuple[bytes, ServerToActor]] = queue.SimpleQueue()
        # Guards what both threads change: the inbox and who is absent.
        self._came = threading.Condition()
        self._inbox = Inbox(
            most_bytes=INBOX_MESSAGES * links.max_message_bytes,
            share_bytes=SHARE_MESSAGES * links.max_message_bytes,
        )
        self._absent: set[bytes] = set()
        """Peers that could not be reached when they were last tried."""
        self._thread = SocketThread(
            "policy server's socket",
            open_sockets=self._bind,
            turn=self._turn,
            at_end=self._end,
            gate=Gate(links.keys, self._complaints),
        )

    def bind(self) -> None:
        """Bind the first free one of its addresses. Raises AddressError if there is none."""
        self._thread.start()

    def poll(self, timeout_s: float) -> list[tuple[bytes, Message]]:
        """What has come, each with the peer to answer; waits for the first at most `timeout_s`.

        Every GenerateRequest must get one `reply`, unless a Cancel comes for it: until then its repeats are
        left out. Peers take turns, and a peer that has gone is heard no more.
        """
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._links.heartbeat_s
            for peer in self._open:
                self._replies.put((peer, ServerAlive()))
            self._thread.wake()
        received: list[tuple[bytes, Sequence[InFrame]]] = []
        with self._came:
            self._thread.expect_running()
            if not self._inbox and not self._absent:
                self._came.wait(timeout_s)
            while self._inbox and len(received) < POLL_AT_ONCE:
                received.append(self._inbox.take())
            absent = set(self._absent)
            if not self._inbox:
                self._absent.clear()
        messages: list[tuple[bytes, Message]] = [
            (peer, Cancel(request_id=request_id))
            for peer in absent
            for request_id in sorted(self._open.pop(peer, ()))
        ]
        for peer, frames in received:
            message = self._read(peer, frames) if peer not in absent else None
            if message is not None:
                messages.append((peer, message))
        return messages

    def reply(self, peer: bytes, message: Completion | GenerateRefusal | ServerStatus) -> None:
        """Answer; never waits. A peer that is gone asks again when it is back."""
        self._close_request(peer, message.request_id)
        self._replies.put((peer, message))
        self._thread.wake()

    def close(self) -> None:
        """Send the replies that are due, and close. Idempotent."""
        self._thread.close()

    # ---- in the socket's thread ----------------------------------------------------------------------------

    def _bind(self, context: Context) -> Sequence[zmq.Socket[bytes]]:
        reasons = []
        for address in self._links.generate_addresses:
            # A new one for each: one that was told to ask the gate can't be told to let in who has no keys.
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
            self._router.router_mandatory = True
            # A client that comes back by a new connection keeps its name.
            self._router.router_handover = True
            try:
                sockets.bind(self._router, address, self._links.keys)
            except AddressError as error:
                self._router.close(linger=0)
                reasons.append(str(error))
            else:
                self.address = address
                return [self._router]
        raise AddressError("; ".join(reasons))

    def _turn(self) -> float:
        self._send_replies()
        peers: set[bytes] = set()
        all_read = False
        with self._came:
            for _ in range(READ_AT_ONCE):
                try:
                    identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    all_read = True
                    break
                if self._inbox.add(identity.bytes, frames):
                    peers.add(identity.bytes)
                else:
                    self._complaints.add("requests beyond the share of a peer", "its connection is closed")
                    cut_off(identity)
            # Of a peer that has gone already, all that it sent is still read.
            for peer in peers:
                if peer not in self._open or peer in self._absent:
                    self._send(peer, ServerAlive())
            if peers:
                self._came.notify()
        return self._links.heartbeat_s if all_read else 0.0

    def _end(self) -> None:
        if self._thread.failure is None:
            self._send_replies()
        with self._came:
            self._came.notify()

    def _send_replies(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                peer, message = self._replies.get_nowait()
                with self._came:
                    self._send(peer, message)

    def _send(self, peer: bytes, message: ServerToActor) -> None:
        """Note, too, whether the peer is there. The lock is held."""
        try:
            self._router.send_multipart([peer, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._absent.add(peer)
                self._came.notify()
                return
            if error.errno != zmq.EAGAIN:
                raise
            self._complaints.add("messages to actors that do not read", type(message).__name__)
        self._absent.discard(peer)

    # ---- of the server's thread ----------------------------------------------------------------------------

    def _close_request(self, peer: bytes, request_id: int) -> None:
        requests = self._open.get(peer, set())
        requests.discard(request_id)
        if not requests:
            self._open.pop(peer, None)

    def _read(self, peer: bytes, frames: Sequence[InFrame]) -> Message | None:
        try:
            request: Message = decode(frames, ActorToServer, max_bytes=self._links.max_message_bytes)
            if isinstance(request, Cancel):
                self._close_request(peer, request.request_id)
                return request
            if isinstance(request, StatusRequest):
                return request
            self._expect_valid(request)
        except MessageError as error:
            self._refuse_malformed(peer, frames, error)
            return None
        if request.request_id in self._open.get(peer, ()):
            self.duplicates += 1
            return None
        self._open.setdefault(peer, set()).add(request.request_id)
        return request

    def _expect_valid(self, request: GenerateRequest) -> None:
        if not 1 <= len(request.prompt) <= self._links.max_tree_tokens:
            msg = f"expected a prompt of 1 to {self._links.max_tree_tokens} tokens, got {len(request.prompt)}"
            raise MessageError(msg)
        if (lowest := int(request.prompt.min())) < 0:
            msg = f"expected token ids >= 0 in the prompt, got {lowest}"
            raise MessageError(msg)
        if not np.isfinite(request.sampling.temperature):
            msg = f"expected a finite temperature, got {request.sampling.temperature}"
            raise MessageError(msg)

    def _refuse_malformed(self, peer: bytes, frames: Sequence[InFrame], error: MessageError) -> None:
        self.malformed += 1
        self._complaints.add("malformed requests", error)
        try:
            request_id = decode(frames[:1], _Numbered, max_bytes=self._links.max_message_bytes).request_id
        except MessageError:
            return
        self.reply(peer, GenerateRefusal(request_id=request_id, kind="invalid", reason=str(error)[:4096]))


class _Numbered(msgspec.Struct):
    """As much of a request as its refusal needs."""

    request_id: int
