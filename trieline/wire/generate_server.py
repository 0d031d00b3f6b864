"""The policy server's end of the generate link: reads requests, leaves out repeats, answers.

Every request is bounded and checked before the server sees it; what is malformed is refused here. What a peer
asked for that has gone is cancelled: it would be worked on for nobody.
"""

import time
from collections.abc import Sequence

import msgspec
import numpy as np
import zmq

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, MessageError, WireError
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

# Whole messages for each actor. Full: the reply is dropped; as there are never more replies than requests,
# that actor does not read at all.
SEND_QUEUE = 100_000
# Requests read in one `poll`; the others wait for the next. As many of the longest take some 20 ms.
POLL_AT_ONCE = 256

Message = GenerateRequest | StatusRequest | Cancel


class GenerateServer:
    """The policy server's end; sync, for one thread."""

    def __init__(self, links: LinksConfig) -> None:
        self.malformed = 0
        self.duplicates = 0
        """Requests that came again while they were being worked on."""
        self._links = links
        self._open: dict[bytes, set[int]] = {}
        """The requests of each peer that has some."""
        self._gone: set[bytes] = set()
        self._next_look = 0.0
        self.address = ""
        """Where it is bound."""
        self._complaints = Complaints("generate")
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    def bind(self) -> None:
        """Bind the first free one of its addresses. Raises AddressError if there is none."""
        context = zmq.Context()
        try:
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
            self._router.router_mandatory = True
            # A client that comes back by a new connection keeps its name.
            self._router.router_handover = True
            self.address = self._bind_first_free()
        except WireError:
            context.destroy(linger=0)
            raise
        self._context = context

    def _bind_first_free(self) -> str:
        *others, last = self._links.generate_addresses
        for address in others:
            try:
                sockets.bind(self._router, address)
            except AddressError:
                continue
            return address
        sockets.bind(self._router, last)
        return last

    def poll(self, timeout_s: float) -> list[tuple[bytes, Message]]:
        """What has come, each with the peer to answer; waits for the first at most `timeout_s`.

        Every GenerateRequest must get one `reply`, unless a Cancel comes for it: until then its repeats are
        left out.
        """
        messages: list[tuple[bytes, Message]] = [*self._cancelled()]
        if not self._router.poll(0 if messages else round(timeout_s * 1000), zmq.POLLIN):
            return messages
        known = set(self._open)
        for _ in range(POLL_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            message = self._read(identity.bytes, frames)
            if message is not None:
                messages.append((identity.bytes, message))
        # Of a peer that has gone already, all that it sent is still read.
        if gone := {peer for peer in self._open.keys() - known if not self._send(peer, ServerAlive())}:
            messages = [(peer, message) for peer, message in messages if peer not in gone]
            for peer in gone:
                del self._open[peer]
            self._gone -= gone
        return messages

    def reply(self, peer: bytes, message: Completion | GenerateRefusal | ServerStatus) -> None:
        """Answer; never waits. A peer that is gone asks again when it is back."""
        self._close_request(peer, message.request_id)
        if not self._send(peer, message):
            self._complaints.add("replies to actors that are gone", f"request {message.request_id}")

    def _send(self, peer: bytes, message: ServerToActor) -> bool:
        """False if the peer is gone."""
        try:
            self._router.send_multipart([peer, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                if peer in self._open:
                    self._gone.add(peer)
                return False
            if error.errno != zmq.EAGAIN:
                raise
            self._complaints.add("messages to actors that do not read", type(message).__name__)
        return True

    def _cancelled(self) -> list[tuple[bytes, Cancel]]:
        """The requests of peers that have gone since the last look, which is one in a heartbeat."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._links.heartbeat_s
            for peer in list(self._open):
                self._send(peer, ServerAlive())
        gone, self._gone = self._gone, set()
        return [
            (peer, Cancel(request_id=request_id))
            for peer in gone
            for request_id in sorted(self._open.pop(peer, ()))
        ]

    def _close_request(self, peer: bytes, request_id: int) -> None:
        requests = self._open.get(peer, set())
        requests.discard(request_id)
        if not requests:
            self._open.pop(peer, None)

    def close(self) -> None:
        """Idempotent."""
        if self._context is not None:
            self._context.destroy(linger=sockets.LINGER_MS)
            self._context = None

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
