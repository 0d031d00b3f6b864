import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from trieline.common.arrays import Int32
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, MessageError, PeerTimeoutError, WireError
from trieline.wire.generate_link import GenerateServer, PolicyClient, RefusedError
from trieline.wire.messages import (
    Completion,
    GenerateRefusal,
    GenerateRequest,
    Sampling,
    ServerStatus,
    ServerToActor,
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

    def __init__(self, links: LinksConfig, answer: Answer, *, answers_pings: bool = True) -> None:
        self.requests: list[GenerateRequest] = []
        self.pings = 0
        self.server = GenerateServer(links)
        self.server.bind()
        self._answer = answer
        self._answers_pings = answers_pings
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            for peer, request in self.server.poll(0.02):
                if isinstance(request, StatusRequest):
                    self.pings += 1
                    if self._answers_pings:
                        self.server.reply(peer, status(request))
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
def serving(links: LinksConfig, answer: Answer = echo, **settings: Any) -> Any:
    with contextlib.closing(ScriptedServer(links, answer, **settings)) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_many_requests_at_once(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            assert (await policy.status(WAIT_S)).vocab_size == 100
            asked = [
                policy.generate(prompt(n, n + 1, n + 2), Sampling(max_tokens=2), timeout_s=WAIT_S)
                for n in range(200)
            ]
            for n, completion in enumerate(await asyncio.gather(*asked)):
                assert completion.token_ids.tolist() == [n, n + 1]
                assert completion.policy_versions.tolist() == [3, 3]

    with serving(links) as server:
        asyncio.run(act())
        assert len(server.requests) == 200


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_restarted_server_is_asked_again(transport: str, links: LinksConfig) -> None:
    if transport == "tcp":
        links = msgspec.structs.replace(links, generate=free_loopback_address())

    async def act() -> None:
        async with client(links) as policy:
            # Asked before any server is there, then of one that dies with the requests, then of a third.
            asked = [
                asyncio.create_task(policy.generate(prompt(n), Sampling(), timeout_s=WAIT_S))
                for n in range(20)
            ]
            await asyncio.sleep(0.1)
            for _ in range(2):
                with serving(links, lambda request: None) as server:
                    await until(lambda seen=server.requests: len(seen) == 20)  # type: ignore[misc]
            with serving(links) as server:
                answers = await asyncio.gather(*asked)
            assert [a.token_ids.tolist() for a in answers] == [[n] for n in range(20)]
            assert len(server.requests) == 20

    asyncio.run(act())


def test_a_slow_server_that_answers_pings_is_not_asked_again(links: LinksConfig) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=1.0)

    async def act() -> None:
        async with client(links) as policy:
            with pytest.raises(PeerTimeoutError, match=r"waited 2 s for a completion .request 1, asked 1x"):
                await policy.generate(prompt(1), Sampling(), timeout_s=2.0)

    with serving(links, lambda request: None) as server:
        asyncio.run(act())
        assert len(server.requests) == 1
        assert server.pings > 3
        assert server.server.duplicates == 0


def test_a_silent_server_is_asked_again_and_works_once(links: LinksConfig) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=0.3)

    async def act() -> None:
        async with client(links) as policy:
            with pytest.raises(PeerTimeoutError, match="last heard"):
                await policy.generate(prompt(1), Sampling(), timeout_s=2.0)

    with serving(links, lambda request: None, answers_pings=False) as server:
        asyncio.run(act())
        assert len(server.requests) == 1
        assert server.server.duplicates >= 1


@pytest.mark.parametrize("kind", ["overloaded", "stopping", "failed"])
def test_a_refusal_for_now_is_asked_again(kind: str, links: LinksConfig) -> None:
    refusals = iter([refuse(kind), refuse(kind), echo])

    async def act() -> None:
        async with client(links) as policy:
            assert (await policy.generate(prompt(5), Sampling(), timeout_s=WAIT_S)).token_ids.tolist() == [5]

    with serving(links, lambda request: next(refusals)(request)) as server:
        asyncio.run(act())
        assert len(server.requests) == 3


def test_a_refusal_for_ever_and_one_until_the_deadline(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            with pytest.raises(RefusedError, match=f"{links.generate} refused: because"):
                await policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S)
            with pytest.raises(PeerTimeoutError, match="last refused with: overloaded, because"):
                await policy.generate(prompt(2), Sampling(), timeout_s=0.5)

    with serving(
        links, lambda request: refuse("invalid" if request.prompt[0] == 1 else "overloaded")(request)
    ):
        asyncio.run(act())


def test_nobody_there(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            with pytest.raises(
                PeerTimeoutError, match=rf"waited 0.2 s for its status .* {links.generate} .not conn"
            ):
                await policy.status(0.2)

    asyncio.run(act())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"token_ids": prompt()}, "1 to 2 tokens"),
        ({"token_ids": prompt(1, 2, 3)}, "1 to 2 tokens"),
        ({"logprobs": np.zeros(1, np.float32)}, "as many log-probabilities"),
        ({"logprobs": np.full(2, np.nan, np.float32)}, "finite logprobs"),
        ({"logprobs": np.full(2, 0.5, np.float32)}, "-logprobs >= 0"),
        ({"entropies": np.full(2, -1, np.float32)}, "entropies >= 0"),
        ({"entropies": np.full(2, np.inf, np.float32)}, "finite entropies"),
        ({"policy_versions": prompt(-1, 0)}, "policy_versions >= 0"),
        ({"token_ids": prompt(-1, 0)}, "token_ids >= 0"),
    ],
)
def test_a_completion_that_no_sampler_can_have_made(
    change: dict[str, Any], complaint: str, links: LinksConfig
) -> None:
    async def act() -> None:
        async with client(links) as policy:
            with pytest.raises(MessageError, match=complaint):
                await policy.generate(prompt(1, 2), Sampling(max_tokens=2), timeout_s=WAIT_S)

    with serving(links, lambda request: msgspec.structs.replace(echo(request), **change)):
        asyncio.run(act())


def test_late_repeats_and_garbage_are_dropped(links: LinksConfig) -> None:
    async def act() -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.bind(links.generate)
        try:
            async with client(links) as policy:
                asked = asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
                await until(lambda: bool(router.poll(0)))
                peer, *frames = router.recv_multipart()
                request = decode(frames, GenerateRequest, max_bytes=1 << 20)
                router.send_multipart([peer, b"garbage"])
                for _ in range(3):
                    router.send_multipart([peer, *encode(echo(request))])
                assert (await asked).token_ids.tolist() == [1]
                await asyncio.sleep(0.05)
                assert policy.pending() == 0
        finally:
            context.destroy(linger=0)

    asyncio.run(act())


def test_a_cancelled_request_is_forgotten(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            asked = asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
            await until(lambda: policy.pending() == 1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert policy.pending() == 0

    asyncio.run(act())


def test_whoever_waits_when_the_client_closes_is_told(links: LinksConfig) -> None:
    async def act() -> None:
        policy = PolicyClient(links)
        await policy.start()
        asked = asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
        await until(lambda: policy.pending() == 1)
        await policy.close()
        with pytest.raises(WireError, match="is closed"):
            await asked
        await policy.close()

    asyncio.run(act())


def test_malformed_requests_are_refused_by_reason(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    context = closing.enter_context(zmq.Context())
    dealer = closing.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    server = closing.enter_context(serving(links))
    dealer.connect(links.generate)

    def refusal_of(frames: Any) -> GenerateRefusal:
        dealer.send_multipart(frames)
        assert dealer.poll(int(WAIT_S * 1000))
        answer = decode(dealer.recv_multipart(), ServerToActor, max_bytes=1 << 20)
        assert isinstance(answer, GenerateRefusal)
        assert answer.kind == "invalid"
        return answer

    dealer.send_multipart([b"garbage"])
    cases: list[tuple[Any, str]] = [
        (prompt(), "prompt of 1 to 10000 tokens, got 0"),
        (np.zeros(10_001, np.int32), "got 10001"),
        (prompt(3, -1), "token ids >= 0"),
        (np.zeros(2, np.float64), "array of <i4"),
    ]
    for number, (bad, reason) in enumerate(cases):
        request = GenerateRequest(request_id=number, prompt=bad, sampling=Sampling())
        answer = refusal_of(encode(request))
        assert answer.request_id == number
        assert reason in answer.reason
    hot = GenerateRequest(request_id=9, prompt=prompt(1), sampling=Sampling(temperature=float("inf")))
    assert "finite temperature" in refusal_of(encode(hot)).reason
    assert server.server.malformed == 6
    assert not server.requests


def test_an_address_in_use_is_an_address_error(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    closing.enter_context(serving(links))
    second = GenerateServer(links)
    with pytest.raises(AddressError, match="another process listens there"):
        second.bind()
    second.close()
