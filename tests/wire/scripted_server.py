"""A policy server of the tests, in a thread on a real socket, and a client of it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np

from trieline.common.arrays import Int32
from trieline.wire.config import LinksConfig
from trieline.wire.generate_link import GenerateServer, PolicyClient
from trieline.wire.messages import (
    Cancel,
    Completion,
    GenerateRefusal,
    GenerateRequest,
    ServerStatus,
    StatusRequest,
)

WAIT_S = 10.0
Answer = Callable[[GenerateRequest], Completion | GenerateRefusal | None]


def prompt(*ids: int) -> Int32:
    return np.array(ids, np.int32)


def echo(request: GenerateRequest) -> Completion:
    """The prompt's first tokens, as if sampled."""
    tokens = request.prompt[: request.sampling.max_tokens]
    return Completion(
        request_id=request.request_id,
        token_ids=tokens,
        logprobs=np.full(len(tokens), -0.5, np.float32),
        entropies=np.full(len(tokens), 0.7, np.float32),
        policy_versions=np.full(len(tokens), 3, np.int32),
        finish_reason="length",
    )


def refuse(kind: Any) -> Answer:
    return lambda request: GenerateRefusal(request_id=request.request_id, kind=kind, reason="because")


class ScriptedServer:
    """A policy server in a thread; `answer` gives the reply to each request, or None to keep it."""

    def __init__(self, links: LinksConfig, answer: Answer) -> None:
        self.requests: list[GenerateRequest] = []
        self.cancelled: list[int] = []
        self.pings = 0
        self.server = GenerateServer(links)
        self.server.bind()
        self._answer = answer
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            for peer, request in self.server.poll(0.02):
                if isinstance(request, StatusRequest):
                    self.pings += 1
                    self.server.reply(peer, status(request))
                elif isinstance(request, Cancel):
                    self.cancelled.append(request.request_id)
                else:
                    self.requests.append(request)
                    if (reply := self._answer(request)) is not None:
                        self.server.reply(peer, reply)
        self.server.close()

    def close(self) -> None:
        self._closing = True
        self._thread.join()


def status(request: StatusRequest) -> ServerStatus:
    return ServerStatus(
        request_id=request.request_id,
        policy_version=3,
        running=0,
        waiting=0,
        vocab_size=100,
        max_context=64,
        tokens_generated=0,
        dtype="float32",
    )


@contextlib.asynccontextmanager
async def client(links: LinksConfig) -> AsyncIterator[PolicyClient]:
    made = PolicyClient(links)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@contextlib.contextmanager
def serving(links: LinksConfig, answer: Answer = echo) -> Iterator[ScriptedServer]:
    with contextlib.closing(ScriptedServer(links, answer)) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)
