"""The policy server's end of the generate link: reads requests, leaves out repeats, answers.

Every request is bounded and checked before the server sees it; what is malformed is refused here.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import zmq

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, WireError
from trieline.wire.messages import (
    ActorToServer,
    Completion,
    GenerateRefusal,
    GenerateRequest,
    ServerStatus,
    StatusRequest,
)

# Whole messages for each actor. Full: the reply is dropped; as there are never more replies than requests,
# that actor does not read at all.
SEND_QUEUE = 100_000
# Requests read in one `poll`; the others wait for the next.
POLL_AT_ONCE = 4_096


class GenerateServer:
    """The policy server's end; sync, for one thread."""

    def __init__(self, links: LinksConfig) -> None:
        self.malformed = 0
        self.duplicates = 0
        """Requests that came again while they were being worked on."""
        self._links = links
        self._open: set[tuple[bytes, int]] = set()
        self._complaints = Complaints("generate")
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    def bind(self) -> None:
        """Raises AddressError if the address is in use or not allowed."""
        context = zmq.Context()
        try:
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
            self._router.router_mandatory = True
            # A client that comes back by a new connection keeps its name.
            self._router.router_handover = True
            sockets.bind(self._router, self._links.generate)
        except WireError:
            context.destroy(linger=0)
            raise
        self._context = context

    def poll(self, timeout_s: float) -> list[tuple[bytes, GenerateRequest | StatusRequest]]:
        """All requests that have come, each with the peer to answer; waits for the first at most `timeout_s`.

        Every GenerateRequest must get one `reply`: until then its repeats are left out.
        """
        requests: list[tuple[bytes, GenerateRequest | StatusRequest]] = []
        if not self._router.poll(round(timeout_s * 1000), zmq.POLLIN):
            return requests
        for _ in range(POLL_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            request = self._read(identity.bytes, frames)
            if request is not None:
                requests.append((identity.bytes, request))
        return requests

    def reply(self, peer: bytes, message: Completion | GenerateRefusal | ServerStatus) -> None:
        """Answer; never waits. A peer that is gone asks again when it is back."""
        self._open.discard((peer, message.request_id))
        try:
            self._router.send_multipart([peer, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self._complaints.add(
                "replies to actors that are gone or do not read", f"request {message.request_id}"
            )

    def close(self) -> None:
        """Idempotent."""
        if self._context is not None:
            self._context.destroy(linger=sockets.LINGER_MS)
            self._context = None

    def _read(self, peer: bytes, frames: Sequence[InFrame]) -> GenerateRequest | StatusRequest | None:
        try:
            request: GenerateRequest | StatusRequest = decode(
                frames, ActorToServer, max_bytes=self._links.max_message_bytes
            )
            if isinstance(request, StatusRequest):
                return request
            self._expect_valid(request)
        except MessageError as error:
            self._refuse_malformed(peer, frames, error)
            return None
        if (peer, request.request_id) in self._open:
            self.duplicates += 1
            return None
        self._open.add((peer, request.request_id))
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
