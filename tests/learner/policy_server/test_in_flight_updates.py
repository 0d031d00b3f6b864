"""New weights while requests run: between two tokens, or after the replies that are under way."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from tests.learner.policy_server.cpu.tiny import expect_plain, random_prompt, request, save_model, tiny_engine
from trieline.learner.policy_server import process
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.errors import EngineError
from trieline.learner.policy_server.process import PolicyServer, StopFlag
from trieline.wire.messages import Cancel, Completion

PEER = b"peer"
LENGTHS = (40, 6, 25, 4, 30, 12, 18)
"""Tokens of the replies: with two rows, some request always waits while another is in its middle."""
TURNS = 1000


class Script:
    """Both sockets of a server, from a script: what comes in which turn of its loop."""

    address = "scripted"

    def __init__(self, stop: StopFlag) -> None:
        self.turn = 0
        self.messages: dict[int, list[Any]] = {}
        """By turn, from 1."""
        self.announces: Callable[[int], tuple[int, Path] | None] = lambda turn: None
        self.until = len(LENGTHS)
        """Answers after which it stops the server."""
        self.answers: dict[int, Completion] = {}
        self.loaded: list[tuple[int, int]] = []
        """(turn, version)"""
        self._stop = stop

    def poll(self, timeout_s: float = -1.0) -> Any:
        if timeout_s < 0:
            return self.announces(self.turn)
        time.sleep(timeout_s)
        self.turn += 1
        assert self.turn < TURNS, f"after {TURNS} turns only {sorted(self.answers)} are answered"
        return [(PEER, message) for message in self.messages.get(self.turn, [])]

    def reply(self, peer: bytes, message: Any) -> None:
        assert isinstance(message, Completion), message
        self.answers[message.request_id] = message
        if len(self.answers) == self.until:
            self._stop("all is answered")

    def is_alone(self) -> bool:
        return True

    def report_loaded(self, version: int, seconds: float) -> None:
        self.loaded.append((self.turn, version))


class Served:
    """A server with two rows over a real engine, and its script."""

    def __init__(self, folder: Path, *, in_flight_updates: bool) -> None:
        limits: dict[str, Any] = {"max_rows": 2, "in_flight_updates": in_flight_updates}
        self.engine = tiny_engine(folder, **limits)
        self.stop = StopFlag()
        self.script = Script(self.stop)
        sockets = cast("Any", self.script)
        self._server = PolicyServer(PolicyServerConfig(**limits), self.engine, sockets, sockets)

    def serve(self) -> None:
        assert self._server.serve(self.stop) == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sets of weights of one model."""
    return [save_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in range(3)]


def prompt(number: int) -> Any:
    return random_prompt(number, 10)


def requests() -> list[Any]:
    return [
        request(number, prompt(number), max_tokens=length, seed=number)
        for number, length in enumerate(LENGTHS)
    ]


def versions_of(script: Script) -> list[set[int]]:
    """Of each reply, in the order in which they were asked for."""
    return [set(script.answers[number].policy_versions.tolist()) for number in range(len(LENGTHS))]


@pytest.mark.parametrize("in_flight_updates", [True, False])
def test_replies_while_weights_change(folders: list[Path], in_flight_updates: bool) -> None:
    served = Served(folders[0], in_flight_updates=in_flight_updates)
    script = served.script
    script.messages[1] = requests()
    files = [folder / "model.safetensors" for folder in folders]
    # The second comes while the first still waits for the longest of the replies, if it has to.
    announced = {5: (1, files[1]), 9: (2, files[2])}
    script.announces = announced.get
    served.serve()
    versions = versions_of(script)
    if in_flight_updates:
        assert script.loaded == [(5, 1), (9, 2)]
        assert {0, 1, 2} in versions
        return
    (turn, version), *more = script.loaded
    assert (version, more) == (2, []), "the newest, once"
    assert turn >= LENGTHS[0], "after the longest of the replies that ran"
    # Whoever had a row was finished, and nobody else began.
    assert versions == [{0}, {0}, *[{2}] * 5]
    for number, answer in script.answers.items():
        expect_plain(folders[versions[number].pop()], prompt(number), answer)


def test_nobody_starves_where_weights_never_stop_coming(folders: list[Path]) -> None:
    served = Served(folders[0], in_flight_updates=False)
    script = served.script
    script.messages[1] = requests()
    script.announces = lambda turn: (turn, folders[turn % 3] / "model.safetensors")
    served.serve()
    versions = versions_of(script)
    assert all(len(one) == 1 for one in versions)
    # Two at a time, so that many waits, and each for one version: the newest of that time.
    assert len(script.loaded) == len(set.union(*versions)) == 4
    assert all(turn == version for turn, version in script.loaded)


def test_a_reply_that_nobody_waits_for_any_more_holds_nothing_back(folders: list[Path]) -> None:
    served = Served(folders[0], in_flight_updates=False)
    script = served.script
    first, second = requests()[:2]
    script.messages = {1: [first], 6: [second], 12: [Cancel(request_id=first.request_id)]}
    script.announces = {4: (1, folders[1] / "model.safetensors")}.get
    script.until = 1
    served.serve()
    assert script.loaded == [(12, 1)]
    assert script.answers[second.request_id].policy_versions.tolist() == [1] * LENGTHS[1]


@pytest.mark.parametrize("retry_s", [0.0, 3600.0])
def test_weights_that_were_not_taken_wait_again(
    folders: list[Path], retry_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RETRY_S", retry_s)
    served = Served(folders[0], in_flight_updates=False)
    script, load, failures = served.script, served.engine.load, iter(["the engine is away"])

    def fails_once(weights: Path, version: int) -> Future[None] | None:
        for reason in failures:
            raise EngineError(reason)
        return load(weights, version)

    monkeypatch.setattr(served.engine, "load", fails_once)
    script.messages[1] = requests()
    script.announces = {5: (1, folders[1] / "model.safetensors")}.get
    served.serve()
    # It goes on with the old ones until the next try, which may be never.
    assert versions_of(script) == [{0}, {0}, *([{1}] if retry_s == 0 else [{0}]) * 5]


def test_weights_that_do_not_fit_are_waited_for_by_nobody(folders: list[Path], tmp_path: Path) -> None:
    served = Served(folders[0], in_flight_updates=False)
    script = served.script
    script.messages[1] = requests()
    script.announces = {5: (1, tmp_path / "missing.safetensors")}.get
    served.serve()
    assert script.loaded == []
    assert versions_of(script) == [{0}] * len(LENGTHS)
    assert [len(script.answers[number].token_ids) for number in range(len(LENGTHS))] == [*LENGTHS]
