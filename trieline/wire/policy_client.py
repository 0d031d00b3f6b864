"""The actor's end of the generate link: a request is never lost, and asked again until its deadline.

There may be several policy servers. The requests of one task go to one of them, which then has their prompts
in its cache; what a server does not answer, because it is gone, silent or has too much to do, another is
asked for, and none waits for the others. The first reply counts, and later ones are dropped. A server is told
when nobody waits for an answer any more.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Sequence

import numpy as np

from trieline.common.arrays import Int32
from trieline.common.complaints import Complaints
from trieline.wire.codec import InFrame, OutFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, PeerTimeoutError, TreeError, WireError
from trieline.wire.messages import (
    Completion,
    GenerateRefusal,
    GenerateRequest,
    Sampling,
    ServerAlive,
    ServerStatus,
    ServerToActor,
    StatusRequest,
)
from trieline.wire.server_link import Pending, ServerLink
from trieline.wire.token_masks import expect_masks
from trieline.wire.tree import ROUNDING

# How long to wait before asking again after a refusal: doubled each time, from the first to the last.
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 2.0


class RefusedError(WireError):
    """The policy server says that this request can never be served."""


class PolicyClient:
    """One actor process's link to the policy servers. All methods belong to one event loop."""

    def __init__(self, links: LinksConfig) -> None:
        self._links = links
        self._next_request_id = 0
        self._pending: dict[int, Pending] = {}
        self._heartbeat: asyncio.Task[None] | None = None
        self._complaints = Complaints("generate")
        # A name of its own lets a restarted connection take over replies to what the server still works on.
        name = b"c" + uuid.uuid4().bytes
        self._servers = [
            ServerLink(
                links,
                address,
                routing_id=name,
                on_message=self._handle,
                on_connect=self._take_over,
                on_failure=self._leave,
            )
            for address in links.generate_addresses
        ]

    async def start(self) -> None:
        """Begin to connect; a server that is not there yet is tried again and again. Raises AddressError."""
        for server in self._servers:
            server.dealer.start()
        self._heartbeat = asyncio.create_task(self._beat())

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        """One completion of `prompt` [P]. Requests of one `task` go to one server; "": to the least busy.

        Raises PeerTimeoutError after `timeout_s`, RefusedError if the server calls the request invalid, and
        MessageError if its reply breaks the contract of `Completion`.
        """
        request_id = self._new_id()
        request = GenerateRequest(request_id=request_id, prompt=prompt, sampling=sampling)
        answer, server = await self._ask(request_id, encode(request), timeout_s, "a completion", task)
        if not isinstance(answer, Completion):
            msg = f"expected a completion from {server.address}, got {type(answer).__name__}"
            raise MessageError(msg)
        _expect_valid(answer, sampling)
        return answer

    async def status(self, timeout_s: float) -> ServerStatus:
        """What a server says of itself; waits until one is up, or raises PeerTimeoutError."""
        request_id = self._new_id()
        answer, server = await self._ask(
            request_id, encode(StatusRequest(request_id=request_id)), timeout_s, "its status", ""
        )
        if not isinstance(answer, ServerStatus):
            msg = f"expected a status from {server.address}, got {type(answer).__name__}"
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
        for server in self._servers:
            await server.dealer.close()

    def _new_id(self) -> int:
        self._next_request_id += 1
        return self._next_request_id

    async def _ask(
        self, request_id: int, frames: Sequence[OutFrame], timeout_s: float, what: str, task: str
    ) -> tuple[ServerToActor, ServerLink]:
        if all(server.dealer.failure is not None for server in self._servers):
            self._servers[0].dealer.expect_alive()
        order = self._order(task)
        pending = Pending(request_id, frames, asyncio.get_running_loop().create_future(), order, order[0])
        self._pending[request_id] = pending
        _best(order).ask(pending)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._until_served(pending)
            # It needs no Cancel.
            pending.link.open.pop(request_id, None)
            return answer, pending.link
        except TimeoutError as error:
            refusal = f", which last refused with: {pending.refusal}" if pending.refusal else ""
            msg = (
                f"waited {timeout_s:g} s for {what} (request {request_id}, asked {1 + pending.repeats}x) "
                f"from the policy server at {pending.link.address} ({pending.link.dealer.state()}){refusal}"
            )
            raise PeerTimeoutError(msg) from error
        finally:
            del self._pending[request_id]
            pending.link.withdraw(request_id)

    async def _until_served(self, pending: Pending) -> ServerToActor:
        pause_s = RETRY_FIRST_S
        while True:
            answer = await pending.answer
            if not isinstance(answer, GenerateRefusal):
                return answer
            if answer.kind == "invalid":
                msg = f"the policy server at {pending.link.address} refused: {answer.reason}"
                raise RefusedError(msg)
            pending.refusal = f"{answer.kind}, {answer.reason}"
            pending.answer = asyncio.get_running_loop().create_future()
            pending.refused_by.add(pending.link)
            others = [one for one in pending.order if one.usable() and one not in pending.refused_by]
            if not others:
                pending.refused_by.clear()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LAST_S)
                others = [_best(pending.order)]
            if not pending.answer.done():
                self._move(pending, others[0])

    def _order(self, task: str) -> list[ServerLink]:
        """All servers, the one that this task prefers first: by rendezvous hashing, or the least busy."""
        if not task:
            return sorted(self._servers, key=lambda server: (not server.usable(), len(server.open)))
        return sorted(
            self._servers,
            key=lambda server: hashlib.blake2b(f"{task}\n{server.address}".encode()).digest(),
        )

    def _move(self, pending: Pending, to: ServerLink) -> None:
        pending.repeats += 1
        if to is not pending.link:
            pending.link.withdraw(pending.request_id)
        to.ask(pending)

    def _leave(self, server: ServerLink) -> None:
        """Ask others for what this one was asked, if there are some."""
        for pending in list(server.open.values()):
            if (best := _best(pending.order)) is not server and best.usable():
                self._move(pending, best)
        if all(one.dealer.failure is not None for one in self._servers):
            self._fail_all()

    def _take_over(self, server: ServerLink) -> None:
        """A server is there: it is asked for what others were that are not."""
        for other in self._servers:
            if not other.usable():
                for pending in list(other.open.values()):
                    self._move(pending, server)

    async def _beat(self) -> None:
        """While answers are due: ask each server whether it lives, and ask again for all if it was silent."""
        while True:
            await asyncio.sleep(self._links.heartbeat_s)
            for server in self._servers:
                if server.is_silent():
                    for pending in server.open.values():
                        pending.repeats += 1
                    server.ask_all_again()
                if server.open:
                    server.ping(self._new_id())
                if not server.usable():
                    self._leave(server)

    def _handle(self, server: ServerLink, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, ServerToActor, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self._complaints.add("malformed messages from the policy server", error)
            return
        if isinstance(message, ServerAlive):
            # Its socket lives. Whether it works, the answers to pings say.
            return
        server.heard_at = time.monotonic()
        # Unknown: the answer to a ping, or a late repeat.
        pending = self._pending.get(message.request_id)
        if pending is None or pending.answer.done():
            return
        if server is not pending.link:
            if isinstance(message, GenerateRefusal):
                # It was asked before, and another one is asked by now.
                return
            pending.link.withdraw(message.request_id)
            pending.link = server
        pending.answer.set_result(message)

    def _fail_all(self) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                link = pending.link
                msg = f"the link to the policy server at {link.address} is closed ({link.dealer.state()})"
                pending.answer.set_exception(WireError(msg))


def _best(order: Sequence[ServerLink]) -> ServerLink:
    """The first that can be asked now, else the first of all."""
    return next((server for server in order if server.usable()), order[0])


def _expect_valid(completion: Completion, sampling: Sampling) -> None:
    """Raise MessageError if the columns differ in length, or hold what no sampler can have made."""
    count = len(completion.token_ids)
    lengths = [
        len(column) for column in (completion.logprobs, completion.entropies, completion.policy_versions)
    ]
    if not 1 <= count <= sampling.max_tokens or lengths != [count] * 3:
        msg = f"expected 1 to {sampling.max_tokens} tokens and as many log-probabilities, entropies and "
        raise MessageError(msg + f"versions, got {count} and {lengths}")
    # An engine that does not know entropies knows none.
    unknown = np.isnan(completion.entropies).all()
    entropies = np.zeros_like(completion.entropies) if unknown else completion.entropies
    for name, column in (("logprobs", completion.logprobs), ("entropies", entropies)):
        if not np.isfinite(column).all():
            msg = f"expected finite {name}, got NaN or infinity"
            raise MessageError(msg)
    for name, lowest in (
        ("token_ids", completion.token_ids.min()),
        ("policy_versions", completion.policy_versions.min()),
        ("-logprobs", -completion.logprobs.max() + ROUNDING),
        ("entropies", entropies.min() + ROUNDING),
    ):
        if lowest < 0:
            msg = f"expected {name} >= 0, got {lowest}"
            raise MessageError(msg)
    if completion.stop not in ("", *sampling.stop):
        msg = f"expected a completion that {sampling.stop} ended, got one by {completion.stop!r}"
        raise MessageError(msg)
    _expect_valid_masks(completion)


def _expect_valid_masks(completion: Completion) -> None:
    index, offsets, runs = completion.mask_index, completion.mask_offsets, completion.mask_runs
    if not (len(index) or len(offsets) or len(runs)):
        return
    count = len(completion.token_ids)
    if len(index) != count:
        msg = f"expected mask_index of {count} tokens, got {len(index)}"
        raise MessageError(msg)
    try:
        expect_masks(
            index,
            offsets,
            runs,
            token_ids=completion.token_ids,
            by_policy=np.ones(count, np.bool_),
            vocab_size=None,
        )
    except TreeError as error:
        msg = f"the completion's masks: {error}"
        raise MessageError(msg) from error
