"""The server as its peers see it: real sockets, and for the whole life a real process."""

import asyncio
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
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.weights_file import expected_shapes
from trieline.learner.policy_server.process import PolicyServer, StopFlag
from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.generate_link import GenerateServer, PolicyClient, RefusedError
from trieline.wire.messages import Sampling
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
    links=msgspec.json.decode(sys.argv[2], type=LinksConfig), weights=None, policy_version=0))
"""


@pytest.fixture
def links() -> LinksConfig:
    return LinksConfig(
        generate=free_loopback_address(),
        weights_announce=free_loopback_address(),
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
    shapes = expected_shapes(folder)
    torch.manual_seed(1)
    save_file({name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}, other)
    arguments = [sys.executable, "-c", MAIN, str(folder), msgspec.json.encode(links).decode()]
    with (
        subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as server,
        closing(WeightsPublisher(links)) as publisher,
    ):
        try:
            publisher.start()
            talk(links, lambda client: _before_and_after_new_weights(client, publisher, other))
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=DEADLINE_S)
        finally:
            server.kill()
    assert server.returncode == 0, errors
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
    long = asyncio.create_task(
        client.generate(prompt, Sampling(max_tokens=1500, seed=1), timeout_s=DEADLINE_S)
    )
    await asyncio.sleep(0.2)
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

    def __init__(self, links: LinksConfig, folder: Path, fetch: Path, **limits: Any) -> None:
        config = PolicyServerConfig(**limits)
        self.engine = tiny_engine(folder, **limits)
        self.sockets = GenerateServer(links)
        self.sockets.bind()
        self.subscriber = WeightsSubscriber(links, server_id="test", fetch_folder=fetch)
        self.subscriber.start()
        self.stop = StopFlag()
        self.status: int | None = None
        self._server = PolicyServer(
            config, self.engine, self.sockets, self.subscriber, expected_shapes(folder)
        )
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.status = self._server.serve(self.stop)

    def close(self) -> None:
        self.stop.reason = self.stop.reason or "the end of the test"
        self.thread.join(DEADLINE_S)
        self.subscriber.close()
        self.sockets.close()


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


def test_weights_that_do_not_fit_leave_the_old_ones_in_place(
    links: LinksConfig, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.safetensors"
    save_file({"model.norm.weight": torch.zeros(3)}, bad)
    prompt = random_prompt(1, 10)
    with closing(Serving(links, folder, tmp_path)), closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        publisher.publish(1, bad)
        _wait_for("lacks tensors", caplog)
        completion = talk(links, ask(prompt, max_tokens=3))
        with pytest.raises(PeerTimeoutError):
            publisher.wait_loaded(1, 0.5)
    assert completion.policy_versions.tolist() == [0] * 3
    expect_plain(folder, prompt, completion)


def _wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in caplog.text:
        assert time.monotonic() < deadline, f"{text!r} was not logged within {DEADLINE_S} s"
        time.sleep(0.02)
