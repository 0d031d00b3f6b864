"""The actor's end of the generate link: a request is never lost, and asked again until its deadline.

The client asks again on every new connection, when the server was silent for `peer_timeout_s`, and after a
refusal that invites to. Asking again is harmless: a request keeps its id, the server leaves out what it is
already working on, and the client takes the first reply and drops later ones. A server that is only slow
answers pings between its steps and is left alone.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Int32
from trieline.common.complaints import Complaints
from trieline.wire.codec import InFrame, OutFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.dealer import Dealer
from trieline.wire.errors import MessageError, PeerTimeoutError, WireError
from trieline.wire.messages import (
    Completion,
    GenerateRefusal,
    GenerateRequest,
    Sampling,
    ServerStatus,
    ServerToActor,
    StatusRequest,
)
from trieline.wire.tree import ROUNDING

logger = logging.getLogger(__name__)

# How long to wait before asking again after a refusal: doubled each time, from the first to the last.
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 2.0


class RefusedError(WireError):
    """The policy server says that this request can never be served."""


@dataclass(slots=True, eq=False)
class _Pending:
    """One question that waits for its answer."""

    frames: Sequence[OutFrame]
    answer: asyncio.Future[ServerToActor]
    refusal: str = ""
    """The last one that invited to ask again."""
    repeats: int = 0


class PolicyClient:
    """One actor process's link to the policy server. All methods belong to one event loop."""

    def __init__(self, links: LinksConfig) -> None:
        self._links = links
        self._next_request_id = 0
        self._pending: dict[int, _Pending] = {}
        self._to_send: deque[int] = deque()
        self._pings: deque[StatusRequest] = deque()
        self._heartbeat: asyncio.Task[None] | None = None
        self._complaints = Complaints("generate")
        # A name of its own lets a restarted connection take over replies to what the server still works on.
        name = uuid.uuid4().bytes
        self._dealer = Dealer(
            links,
            links.generate,
            name="policy client",
            next_frames=self._next_frames,
            on_message=self._handle,
            on_connect=self._ask_all_again,
            on_failure=self._fail_all,
            routing_id=b"c" + name,
        )

    async def start(self) -> None:
        """Begin to connect; a server that is not there yet is tried again and again. Raises AddressError."""
        self._dealer.start()
        self._heartbeat = asyncio.create_task(self._beat())

    async def generate(self, prompt: Int32, sampling: Sampling, *, timeout_s: float) -> Completion:
        """One completion of `prompt` [P].

        Raises PeerTimeoutError after `timeout_s`, RefusedError if the server calls the request invalid, and
        MessageError if its reply breaks the contract of `Completion`.
        """
        request_id = self._new_id()
        request = GenerateRequest(request_id=request_id, prompt=prompt, sampling=sampling)
        answer = await self._ask(request_id, encode(request), timeout_s, "a completion")
        if not isinstance(answer, Completion):
            msg = f"expected a completion from {self._dealer.address}, got {type(answer).__name__}"
            raise MessageError(msg)
        _expect_valid(answer, sampling.max_tokens)
        return answer

    async def status(self, timeout_s: float) -> ServerStatus:
        """What the server says of itself; waits until one is up, or raises PeerTimeoutError."""
        request_id = self._new_id()
        answer = await self._ask(
            request_id, encode(StatusRequest(request_id=request_id)), timeout_s, "its status"
        )
        if not isinstance(answer, ServerStatus):
            msg = f"expected a status from {self._dealer.address}, got {type(answer).__name__}"
            raise MessageError(msg)
        return answer

    def pending(self) -> int:
        """Requests that wait for their answer."""
        return len(self._pending)

    async def close(self) -> None:
        """Close; whoever still waits gets WireError. Idempotent."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heartbeat
            self._heartbeat = None
        self._fail_all()
        await self._dealer.close()

    def _new_id(self) -> int:
        self._next_request_id += 1
        return self._next_request_id

    async def _ask(
        self, request_id: int, frames: Sequence[OutFrame], timeout_s: float, what: str
    ) -> ServerToActor:
        self._dealer.expect_alive()
        pending = _Pending(frames, asyncio.get_running_loop().create_future())
        self._pending[request_id] = pending
        self._send(request_id)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._until_served(request_id, pending)
        except TimeoutError as error:
            refusal = f", which last refused with: {pending.refusal}" if pending.refusal else ""
            msg = (
                f"waited {timeout_s:g} s for {what} (request {request_id}, asked {1 + pending.repeats}x) "
                f"from the policy server at {self._dealer.address} ({self._dealer.state()}){refusal}"
            )
            raise PeerTimeoutError(msg) from error
        finally:
            del self._pending[request_id]

    async def _until_served(self, request_id: int, pending: _Pending) -> ServerToActor:
        pause_s = RETRY_FIRST_S
        while True:
            answer = await pending.answer
            if not isinstance(answer, GenerateRefusal):
                return answer
            if answer.kind == "invalid":
                msg = f"the policy server at {self._dealer.address} refused: {answer.reason}"
                raise RefusedError(msg)
            pending.refusal = f"{answer.kind}, {answer.reason}"
            pending.answer = asyncio.get_running_loop().create_future()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)
            if not pending.answer.done():
                pending.repeats += 1
                self._send(request_id)

    def _send(self, request_id: int) -> None:
        self._to_send.append(request_id)
        self._dealer.wake()

    def _next_frames(self) -> Sequence[OutFrame] | None:
        if self._pings:
            return encode(self._pings.popleft())
        while self._to_send:
            pending = self._pending.get(self._to_send.popleft())
            if pending is not None:
                return pending.frames
        return None

    def _ask_all_again(self) -> None:
        """All that still waits, in order; what a broken connection had taken is among it."""
        if self._dealer.connections > 1:
            for pending in self._pending.values():
                pending.repeats += 1
        self._to_send = deque(self._pending)

    async def _beat(self) -> None:
        """While answers are due: ask the server whether it lives, and ask again for all if it was silent."""
        asked_again_at = time.monotonic()
        while True:
            await asyncio.sleep(self._links.heartbeat_s)
            if not self._dealer.connected or not self._pending:
                # Nobody asks, so the server has no reason to speak.
                asked_again_at = time.monotonic()
                continue
            silent_since = max(asked_again_at, self._dealer.heard_at)
            if time.monotonic() - silent_since > self._links.peer_timeout_s:
                logger.warning(
                    "The policy server at %s was silent for %.1f s with %d requests open: asking again",
                    self._dealer.address,
                    self._dealer.silent_s(),
                    len(self._pending),
                )
                asked_again_at = time.monotonic()
                self._ask_all_again()
            if not self._pings:
                self._pings.append(StatusRequest(request_id=self._new_id()))
            self._dealer.wake()

    def _handle(self, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, ServerToActor, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self._complaints.add("malformed messages from the policy server", error)
            return
        # Unknown: the answer to a ping, or a late repeat.
        pending = self._pending.get(message.request_id)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(message)

    def _fail_all(self) -> None:
        msg = f"the link to the policy server at {self._dealer.address} is closed ({self._dealer.state()})"
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(WireError(msg))


def _expect_valid(completion: Completion, max_tokens: int) -> None:
    """Raise MessageError if the columns differ in length, or hold what no sampler can have made."""
    count = len(completion.token_ids)
    lengths = [
        len(column) for column in (completion.logprobs, completion.entropies, completion.policy_versions)
    ]
    if not 1 <= count <= max_tokens or lengths != [count] * 3:
        msg = f"expected 1 to {max_tokens} tokens and as many log-probabilities, entropies and versions, got "
        raise MessageError(msg + f"{count} and {lengths}")
    for name, column in (("logprobs", completion.logprobs), ("entropies", completion.entropies)):
        if not np.isfinite(column).all():
            msg = f"expected finite {name}, got NaN or infinity"
            raise MessageError(msg)
    for name, lowest in (
        ("token_ids", completion.token_ids.min()),
        ("policy_versions", completion.policy_versions.min()),
        ("-logprobs", -completion.logprobs.max() + ROUNDING),
        ("entropies", completion.entropies.min() + ROUNDING),
    ):
        if lowest < 0:
            msg = f"expected {name} >= 0, got {lowest}"
            raise MessageError(msg)
