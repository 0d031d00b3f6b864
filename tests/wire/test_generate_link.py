import asyncio
import contextlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from tests.wire.raw_router import RawRouter, raw_router, wait_until_tried
from tests.wire.scripted_server import WAIT_S, ScriptedServer, client, echo, prompt, refuse, serving, until
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, MessageError, PeerTimeoutError, WireError
from trieline.wire.generate_link import GenerateServer, PolicyClient, RefusedError
from trieline.wire.messages import (
    ActorToServer,
    Cancel,
    Completion,
    GenerateRefusal,
    GenerateRequest,
    Sampling,
    ServerAlive,
    ServerToActor,
)


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


def test_a_server_is_not_asked_for_what_was_withdrawn_before_it_was_there(links: LinksConfig) -> None:
    def heard(router: RawRouter, count: int) -> list[int]:
        """The prompts of the next requests to generate."""
        prompts: list[int] = []
        while len(prompts) < count:
            message = decode(router.hear(), ActorToServer, max_bytes=1 << 20)
            if isinstance(message, GenerateRequest):
                prompts.append(int(message.prompt[0]))
        return prompts

    async def act() -> None:
        async with client(links) as policy:

            def ask(number: int) -> asyncio.Task[Completion]:
                return asyncio.create_task(policy.generate(prompt(number), Sampling(), timeout_s=WAIT_S))

            with raw_router(links.generate_addresses[0]) as first:
                asked = [ask(1)]
                assert await asyncio.to_thread(heard, first, 1) == [1]
            wait_until_tried(links.generate_addresses[0])
            withdrawn = ask(2)
            # It is asked, and then taken up by the link, which has not noticed that the server is away.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            withdrawn.cancel()
            with raw_router(links.generate_addresses[0]) as second:
                assert await asyncio.to_thread(heard, second, 1) == [1]
                asked.append(ask(3))
                assert await asyncio.to_thread(heard, second, 1) == [3]
            for one in asked:
                one.cancel()
            await asyncio.gather(withdrawn, *asked, return_exceptions=True)

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

    async def act(server: GenerateServer) -> None:
        async with client(links) as policy:
            asked = asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
            # The server does not look at its socket before all this has come.
            await until(lambda: len(server._inbox) == 1)
            await until(lambda: policy._servers[0].open[1].repeats >= 2)
            while not server.duplicates:
                for peer, request in server.poll(0.05):
                    if isinstance(request, GenerateRequest):
                        server.reply(peer, echo(request))
                await asyncio.sleep(0)
            assert (await asked).token_ids.tolist() == [1]

    with contextlib.closing(GenerateServer(links)) as server:
        server.bind()
        asyncio.run(act(server))


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
        ({"entropies": np.array([0.1, np.nan], np.float32)}, "finite entropies"),
        ({"finish_reason": "stop", "stop": "never asked for"}, "expected a completion that"),
        ({"mask_index": prompt(0)}, "mask_index of 2 tokens, got 1"),
        ({"mask_runs": prompt(0, 9)}, "mask_index of 2 tokens, got 0"),
        ({"mask_index": prompt(0, 0)}, "masks: expected mask_offsets to rise"),
        (
            {"mask_index": prompt(0, 1), "mask_offsets": prompt(0, 1), "mask_runs": prompt(0, 9)},
            "masks: expected mask_index to use each of 1 masks",
        ),
        (
            {"mask_index": prompt(0, -1), "mask_offsets": prompt(0, 1), "mask_runs": prompt(500, 900)},
            "masks: expected tokens that their mask allows",
        ),
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
        router.bind(links.generate_addresses[0])
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


def test_a_server_that_knows_no_entropies_says_nan(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            completion = await policy.generate(prompt(1, 2), Sampling(max_tokens=2), timeout_s=WAIT_S)
            assert np.isnan(completion.entropies).all()

    unknown = np.full(2, np.nan, np.float32)
    with serving(links, lambda request: msgspec.structs.replace(echo(request), entropies=unknown)):
        asyncio.run(act())


def test_a_server_is_told_that_nobody_waits_any_more(links: LinksConfig) -> None:
    async def act(server: ScriptedServer) -> None:
        async with client(links) as policy:
            asked = asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
            await until(lambda: len(server.requests) == 1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert policy.pending() == 0
            await until(lambda: server.cancelled == [1])
            with pytest.raises(PeerTimeoutError):
                await policy.generate(prompt(1), Sampling(), timeout_s=0.2)
            # A ping may have had the number between them.
            await until(lambda: server.cancelled == [request.request_id for request in server.requests])
            assert len(server.requests) == 2

    with serving(links, lambda request: None) as server:
        asyncio.run(act(server))


def test_what_was_answered_is_not_cancelled(links: LinksConfig) -> None:
    async def act() -> None:
        async with client(links) as policy:
            for _ in range(20):
                await policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S)

    with serving(links) as server:
        asyncio.run(act())
        assert server.cancelled == []


def _ask_and_leave(links: LinksConfig, requests: int, asked: Any) -> None:
    """A process that sends long requests and is gone before anybody has read them."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = -1
        dealer.sndhwm = 0
        dealer.connect(links.generate_addresses[0])
        for number in range(requests):
            request = GenerateRequest(
                request_id=number, prompt=np.zeros(5_000, np.int32), sampling=Sampling()
            )
            dealer.send_multipart(encode(request))
    asked.set()


def test_requests_of_a_peer_that_has_gone_are_dropped(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    links = msgspec.structs.replace(links, heartbeat_s=0.2)
    server = GenerateServer(links)
    server.bind()
    closing.callback(server.close)
    context = closing.enter_context(zmq.Context())
    dealer = closing.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    dealer.connect(links.generate_addresses[0])
    request = GenerateRequest(request_id=7, prompt=prompt(1), sampling=Sampling())
    dealer.send_multipart(encode(request))
    polled = _poll_until(server, lambda polled: len(polled) == 1)
    # It goes while it is worked on.
    dealer.close()
    polled = _poll_until(server, lambda polled: bool(polled))
    assert [message for _, message in polled] == [Cancel(request_id=7)]

    # And it has gone before anything was read.
    spawn = multiprocessing.get_context("spawn")
    asked = spawn.Event()
    process = spawn.Process(target=_ask_and_leave, args=(links, 300, asked))
    process.start()
    process.join()
    assert asked.is_set()
    dealer = closing.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    dealer.connect(links.generate_addresses[0])
    dealer.send_multipart(encode(request))
    # No later than with the next heartbeat, all but the one that is there is dropped.
    _poll_until(server, lambda polled: open_requests(polled) == [7])


def test_a_flood_of_one_peer_is_cut_off_and_others_are_heard(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    server = GenerateServer(links)
    closing.callback(server.close)
    server.bind()
    context = closing.enter_context(zmq.Context())
    flood, modest = (closing.enter_context(context.socket(zmq.DEALER)) for _ in range(2))
    monitor = closing.enter_context(flood.get_monitor_socket(zmq.Event.DISCONNECTED))
    for dealer in (flood, modest):
        dealer.linger = 0
        dealer.sndhwm = 0
        dealer.connect(links.generate_addresses[0])
    # 40 MB, of which nobody has read anything: far beyond the share of 8 MB.
    for number in range(1_000):
        long = GenerateRequest(request_id=number, prompt=np.zeros(10_000, np.int32), sampling=Sampling())
        flood.send_multipart(encode(long))
    assert monitor.poll(int(WAIT_S * 1000)), "it was not cut off"
    modest.send_multipart(encode(GenerateRequest(request_id=7, prompt=prompt(1), sampling=Sampling())))
    _poll_until(
        server,
        lambda polled: any(isinstance(m, GenerateRequest) and len(m.prompt) == 1 for _, m in polled),
    )


def open_requests(polled: list[tuple[bytes, object]]) -> list[int]:
    """What was asked for and not cancelled."""
    counted: Counter[tuple[bytes, int]] = Counter()
    for peer, message in polled:
        if isinstance(message, GenerateRequest | Cancel):
            counted[peer, message.request_id] += 1 if isinstance(message, GenerateRequest) else -1
    return [request_id for (_, request_id), count in counted.items() if count]


def _poll_until(server: GenerateServer, enough: Callable[[list[Any]], bool]) -> list[Any]:
    polled: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while not enough(polled):
        assert time.monotonic() < deadline, "it did not come"
        polled += server.poll(0.05)
    return polled


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
    dealer.connect(links.generate_addresses[0])

    def refusal_of(frames: Any) -> GenerateRefusal:
        dealer.send_multipart(frames)
        answer: object = ServerAlive()
        while isinstance(answer, ServerAlive):
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
