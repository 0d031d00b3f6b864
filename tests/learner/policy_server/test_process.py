"""The server as its peers see it: real sockets, and for the whole life a real process."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.learner.policy_server.cpu.tiny import expect_plain, random_prompt, save_model, tiny_engine
from trieline.common.arrays import Int32
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.batching.stop_text import Decode, tokenizer_decode
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.process import PolicyServer, StopFlag
from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.generate_link import GenerateServer, PolicyClient, RefusedError
from trieline.wire.messages import Completion, Sampling
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

Work = Callable[[PolicyClient], Awaitable[Any]]

DEADLINE_S = 60.0

MAIN = """
import logging, msgspec, sys
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.process import run_policy_server
logging.basicConfig(level=logging.INFO)
sys.exit(run_policy_server(
    PolicyServerConfig(threads=1), model=ModelConfig(path=sys.argv[1], dtype="float32"),
    links=msgspec.json.decode(sys.argv[2], type=LinksConfig)))
"""


@pytest.fixture
def links() -> LinksConfig:
    return LinksConfig(
        generate=free_loopback_address(),
        weights_fetch=free_loopback_address(),
        heartbeat_s=0.2,
        peer_timeout_s=5.0,
    )


def talk(links: LinksConfig, work: Work) -> Any:
    """The result of `work`, given a started client."""

    async def session() -> Any:
        client = PolicyClient(links)
        await client.start()
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(session())


def ask(prompt: Int32, *, timeout_s: float = DEADLINE_S, **sampling: Any) -> Work:
    """One request, for `talk`."""
    return lambda client: client.generate(prompt, Sampling(**sampling), timeout_s=timeout_s)


def test_the_life_of_a_server(links: LinksConfig, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny_model(folder)
    other = tmp_path / "other.safetensors"
    shapes = load_decoder(folder, torch.float32).weights.shapes
    torch.manual_seed(1)
    save_file({name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}, other)
    arguments = [sys.executable, "-c", MAIN, str(folder), msgspec.json.encode(links).decode()]
    with (
        subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as server,
        closing(WeightsPublisher(links)) as publisher,
    ):
        try:
            talk(links, lambda client: _before_and_after_new_weights(client, publisher, other))
            (server_id,) = publisher.loaded()
            assert re.fullmatch(rf".+-{server.pid}-[0-9a-f]{{8}}", server_id), "no other process has this id"
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=DEADLINE_S)
        finally:
            server.kill()
    assert server.returncode == 0, errors
    assert "no learner is there: serving version 0" in errors
    assert "serving version 7" in errors
    assert "stopping on SIGTERM" in errors


async def _before_and_after_new_weights(
    client: PolicyClient, publisher: WeightsPublisher, weights: Path
) -> None:
    prompt = random_prompt(0, 30) % 256
    status = await client.status(DEADLINE_S)
    assert (status.policy_version, status.vocab_size, status.dtype) == (0, 260, "float32")
    with pytest.raises(RefusedError, match="expected prompt tokens"):
        await client.generate(np.array([5000], np.int32), Sampling(), timeout_s=DEADLINE_S)
    asked = (
        client.generate(prompt, Sampling(max_tokens=20, seed=seed), timeout_s=DEADLINE_S)
        for seed in range(16)
    )
    for completion in await asyncio.gather(*asked):
        assert completion.policy_versions.tolist() == [0] * len(completion.token_ids)
    before = (await client.status(DEADLINE_S)).tokens_generated
    # It goes on for longer than the server may take to find a learner that it has tried in vain so far.
    long = asyncio.create_task(
        client.generate(prompt, Sampling(max_tokens=2_000, seed=1), timeout_s=DEADLINE_S)
    )
    while (await client.status(DEADLINE_S)).tokens_generated == before:
        await asyncio.sleep(0.01)
    publisher.start()
    publisher.publish(7, weights)
    await asyncio.to_thread(publisher.wait_loaded, 7, DEADLINE_S)
    completion = await long
    assert np.unique(completion.policy_versions).tolist() == [0, 7]
    assert (np.diff(completion.policy_versions) >= 0).all()
    assert (await client.status(DEADLINE_S)).policy_version == 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


class Serving:
    """A server's loop in a thread of the test."""

    def __init__(
        self,
        links: LinksConfig,
        folder: Path,
        fetch: Path,
        *,
        decode: Decode | None = None,
        grammars: Grammars | None = None,
        **limits: Any,
    ) -> None:
        config = PolicyServerConfig(**limits)
        self.engine = tiny_engine(folder, decode=decode, grammars=grammars, **limits)
        self.sockets = GenerateServer(links)
        self.sockets.bind()
        self.subscriber = WeightsSubscriber(links, server_id="test", fetch_folder=fetch)
        self.subscriber.start()
        self.stop = StopFlag()
        self.status: int | None = None
        self._server = PolicyServer(config, self.engine, self.sockets, self.subscriber)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.status = self._server.serve(self.stop)

    def close(self) -> None:
        self.stop.reason = self.stop.reason or "the end of the test"
        self.thread.join(DEADLINE_S)
        self.subscriber.close()
        self.sockets.close()
        self.engine.close()


def test_grammars_travel_both_ways_and_are_refused_by_name(links: LinksConfig, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    folder = tmp_path / "tiny"
    save_tiny_model(folder)
    grammars = Grammars(folder / "tokenizer.json", 260)
    prompt = random_prompt(0, 20) % 256
    with closing(Serving(links, folder, tmp_path / "fetch", grammars=grammars)):
        yes = talk(links, ask(prompt, lark='start: "yes" | "no"', stop_ids=(258,)))
        assert bytes(yes.token_ids[:-1].tolist()) in (b"yes", b"no")
        assert (yes.finish_reason, len(yes.mask_index)) == ("stop", len(yes.token_ids))
        with pytest.raises(RefusedError, match="refused: expected a grammar, got one that llguidance"):
            talk(links, ask(prompt, lark="start: nothing", stop_ids=(258,)))
        # It turns out only after the first token.
        with pytest.raises(RefusedError, match="none can come next"):
            talk(links, ask(prompt, lark='start: "a\\n"', stop_ids=(10,)))


def test_one_bad_step_refuses_its_requests_and_the_server_goes_on(
    links: LinksConfig,
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(Serving(links, folder, tmp_path)) as serving:
        forward = serving.engine.decoder.forward
        failures = iter(["out of memory"])

        def fails_once(*arguments: Any) -> torch.Tensor:
            for reason in failures:
                raise RuntimeError(reason)
            return forward(*arguments)

        monkeypatch.setattr(serving.engine.decoder, "forward", fails_once)
        prompt = random_prompt(0, 20)
        # The client asks again after the refusal.
        completion = talk(links, ask(prompt, max_tokens=5))
        expect_plain(folder, prompt, completion)
    assert serving.status == 0
    assert "RuntimeError: out of memory" in caplog.text


def test_a_server_that_fails_again_and_again_gives_up(
    links: LinksConfig,
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(Serving(links, folder, tmp_path, max_failures=2)) as serving:

        def fails(*arguments: Any) -> torch.Tensor:
            reason = "broken"
            raise RuntimeError(reason)

        monkeypatch.setattr(serving.engine.decoder, "forward", fails)
        with pytest.raises(PeerTimeoutError, match="failed, RuntimeError: broken"):
            talk(links, ask(random_prompt(0, 5), timeout_s=2.0))
        serving.thread.join(DEADLINE_S)
        assert serving.status == 1
    assert "giving up: 2 steps failed" in caplog.text


def test_a_stopping_server_refuses_what_it_holds(
    links: LinksConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Serving(links, folder, tmp_path)) as serving:
        forward = serving.engine.decoder.forward

        def stops(*arguments: Any) -> torch.Tensor:
            serving.stop.reason = "SIGTERM"
            return forward(*arguments)

        monkeypatch.setattr(serving.engine.decoder, "forward", stops)
        with pytest.raises(PeerTimeoutError, match="stopping, the policy server stops on SIGTERM"):
            talk(links, ask(random_prompt(0, 5), timeout_s=1.0))
    assert serving.status == 0


@pytest.fixture
def bad_weights(tmp_path: Path) -> Path:
    path = tmp_path / "bad.safetensors"
    save_file({"model.norm.weight": torch.zeros(3)}, path)
    return path


def test_weights_that_do_not_fit_leave_the_old_ones_in_place(
    links: LinksConfig,
    folder: Path,
    other_folder: Path,
    bad_weights: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompt = random_prompt(1, 10)
    with closing(Serving(links, folder, tmp_path)), closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        publisher.publish(1, other_folder / "model.safetensors")
        publisher.wait_loaded(1, DEADLINE_S)
        publisher.publish(2, bad_weights)
        _wait_for("lacks tensors", caplog)
        completion = talk(links, ask(prompt, max_tokens=3))
        with pytest.raises(PeerTimeoutError):
            publisher.wait_loaded(2, 0.5)
    assert completion.policy_versions.tolist() == [1] * 3
    expect_plain(other_folder, prompt, completion)


def test_a_server_whose_first_weights_do_not_fit_waits_for_others(
    links: LinksConfig,
    folder: Path,
    other_folder: Path,
    bad_weights: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompt = random_prompt(1, 10)

    async def asked_early(client: PolicyClient) -> Any:
        asked = asyncio.ensure_future(ask(prompt, max_tokens=3)(client))
        while (await client.status(DEADLINE_S)).waiting == 0:
            assert not asked.done()
            await asyncio.sleep(0.01)
        await asyncio.to_thread(_until_heard_again, publisher, 3)
        assert not asked.done()
        publisher.publish(2, other_folder / "model.safetensors")
        return await asked

    with closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        publisher.publish(1, bad_weights)
        with closing(Serving(links, folder, tmp_path)):
            _wait_for("lacks tensors", caplog)
            completion = talk(links, asked_early)
    assert completion.policy_versions.tolist() == [2] * 3


def _wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in caplog.text:
        assert time.monotonic() < deadline, f"{text!r} was not logged within {DEADLINE_S} s"
        time.sleep(0.02)


def test_nothing_is_sampled_before_the_weights_of_a_learner_that_is_there(
    links: LinksConfig, folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    prompt = random_prompt(1, 10)

    async def asked_early(client: PolicyClient) -> Any:
        asked = asyncio.ensure_future(ask(prompt, max_tokens=3)(client))
        # It says that it is there, and has the request.
        while (await client.status(DEADLINE_S)).waiting == 0:
            await asyncio.sleep(0.01)
        publisher.publish(9, other_folder / "model.safetensors")
        return await asked

    with closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        with closing(Serving(links, folder, tmp_path)) as serving:
            # Far longer than a server that is alone would wait.
            _until(lambda: publisher.loaded() == {"test": -1})
            _until_heard_again(publisher, times=6)
            assert not serving.subscriber.is_alone()
            completion = talk(links, asked_early)
    assert completion.policy_versions.tolist() == [9] * 3
    expect_plain(other_folder, prompt, completion)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("other"), seed=1)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def _until_heard_again(publisher: WeightsPublisher, times: int) -> None:
    """So many heartbeats of the one server there is."""
    (server,) = publisher._roll._servers.values()
    for _ in range(times):
        before = server.heard_at
        _until(lambda before=before: server.heard_at > before)  # type: ignore[misc]


def test_a_request_that_its_client_gives_up_frees_its_row(
    links: LinksConfig, folder: Path, tmp_path: Path
) -> None:
    with closing(Serving(links, folder, tmp_path)) as serving:

        async def give_up(client: PolicyClient) -> None:
            with pytest.raises(PeerTimeoutError):
                await ask(random_prompt(0, 8), max_tokens=480, timeout_s=2.0)(client)
            while (await client.status(DEADLINE_S)).running:
                await asyncio.sleep(0.01)

        forward = serving.engine.decoder.forward

        def slow(*arguments: Any) -> torch.Tensor:
            time.sleep(0.02)
            return forward(*arguments)

        serving.engine.decoder.forward = slow  # type: ignore[assignment, method-assign]
        talk(links, give_up)
        # A client that leaves without a word.
        talk(links, lambda client: _ask_and_leave(client, serving))
        _until(lambda: serving.engine.running == 0)
    assert serving.engine.counters.generated < 400


async def _ask_and_leave(client: PolicyClient, serving: Serving) -> None:
    asked = asyncio.ensure_future(ask(random_prompt(0, 8), max_tokens=480)(client))
    while not serving.engine.running:
        await asyncio.sleep(0.01)
    await client.close()
    await asyncio.gather(asked, return_exceptions=True)


def test_a_peer_with_very_many_requests_leaves_the_others_their_share(
    links: LinksConfig, folder: Path, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"max_rows": 4, "max_waiting": 40, "prefill_tokens": 64}
    with closing(Serving(links, folder, tmp_path, **limits)) as serving:

        async def greedy(client: PolicyClient) -> int:
            asked = [
                asyncio.ensure_future(ask(random_prompt(number, 200), max_tokens=40, seed=number)(client))
                for number in range(400)
            ]
            while serving.engine.running < 4:
                await asyncio.sleep(0.01)
            prompt = random_prompt(1000, 20)
            modest = await asyncio.to_thread(talk, links, ask(prompt, max_tokens=4))
            expect_plain(folder, prompt, modest)
            for one in asked:
                one.cancel()
            return sum(
                isinstance(x, Completion) for x in await asyncio.gather(*asked, return_exceptions=True)
            )

        assert talk(links, greedy) < 40
        _until(lambda: serving.engine.running + serving.engine.waiting == 0)
    assert serving.status == 0


def test_a_stop_string_over_the_wire(links: LinksConfig, tmp_path: Path) -> None:
    """With the tokenizer of the model's own folder."""
    folder = tmp_path / "model"
    save_tiny_model(folder)
    decode = tokenizer_decode(folder)
    assert decode is not None
    prompt = np.frombuffer(b"Say it.", np.uint8).astype(np.int32)
    with closing(Serving(links, folder, tmp_path, decode=decode)):
        free = talk(links, ask(prompt, max_tokens=30, seed=3))
        text = decode(free.token_ids.tolist())
        stop = text[10:12]
        stopped = talk(links, ask(prompt, max_tokens=30, seed=3, stop=(stop,)))
    assert stopped.stop == stop
    assert stopped.finish_reason == "stop"
    assert decode(stopped.token_ids.tolist()).endswith(stop)
    assert len(stopped.token_ids) < 30


def test_one_of_two_servers_is_killed_midway(links: LinksConfig, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny_model(folder)
    addresses = (free_loopback_address(), free_loopback_address())
    both = msgspec.structs.replace(links, generate=addresses)
    arguments = [sys.executable, "-c", MAIN, str(folder), msgspec.json.encode(both).decode()]
    # Both are told both addresses, and each takes one.
    servers = [subprocess.Popen(arguments) for _ in addresses]

    async def kill_one(client: PolicyClient) -> list[Completion]:
        for address in addresses:
            alone = PolicyClient(msgspec.structs.replace(links, generate=address))
            await alone.start()
            await alone.status(DEADLINE_S)
            await alone.close()
        prompts = [random_prompt(task, 12) % 256 for task in range(12)]
        asked = [
            asyncio.create_task(
                client.generate(
                    prompt,
                    Sampling(max_tokens=60, seed=task),
                    timeout_s=DEADLINE_S,
                    task=str(task),
                )
            )
            for task, prompt in enumerate(prompts)
        ]
        while not all(server.open for server in client._servers):
            await asyncio.sleep(0.01)
        servers[0].kill()
        return await asyncio.gather(*asked)

    try:
        completions = talk(both, kill_one)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert len(completions) == 12
    assert all(len(one.token_ids) == 60 for one in completions)
