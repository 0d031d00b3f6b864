"""A gateway and its policy server are killed while agents talk: what anybody was told is kept."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.actors.peers import Learner
from trieline.wire.config import LinksConfig
from trieline.wire.journal import read_journal

SESSIONS, TURNS = 4, 6
START_S = 240.0
PATIENCE_S = 120.0


def links_of(folder: Path) -> LinksConfig:
    return LinksConfig(
        trajectories=f"ipc://{folder}/trajectories",
        generate=f"ipc://{folder}/generate",
        weights_fetch=f"ipc://{folder}/weights",
        peer_timeout_s=6.0,
    )


class Programs:
    """A policy server and a gateway that can be killed and started again."""

    def __init__(self, folder: Path, keeping: str) -> None:
        """`keeping`: `--record` or `--keep`."""
        self.folder = folder
        self._keeping = keeping
        self.config = folder / "config.toml"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config.write_text(
            f"""
            [model]
            path = "builtin:tiny"
            dtype = "float32"
            [[envs]]
            id = "trieline/FrozenLake-v0"
            [links]
            trajectories = "{links_of(folder).trajectories}"
            generate = "{links_of(folder).generate}"
            weights_fetch = "{links_of(folder).weights_fetch}"
            peer_timeout_s = 6.0
            [actor]
            generate_timeout_s = 60.0
            [gateway]
            port = {self.port}
            max_tokens = 8
            """
        )
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "trieline", name, "--config", str(self.config)]
        if name == "gateway":
            command += [self._keeping, str(self.folder / "record")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def post(self, path: str, body: dict[str, Any], *, until: float) -> Any:
        """As clients do: again and again, the same request, while nobody answers or asks to come again."""
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}{path}",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503, 504) or time.monotonic() > until:
                    raise
            except OSError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.2)


@contextmanager
def programs(folder: Path, keeping: str = "--record") -> Iterator[Programs]:
    running = Programs(folder, keeping)
    try:
        running.start("policy-server")
        running.start("gateway")
        yield running
    finally:
        running.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_that_was_told_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    heard: dict[str, list[str]] = {}
    failures: list[BaseException] = []
    told = threading.Semaphore(0)

    def talk(running: Programs, number: int) -> None:
        until = time.monotonic() + START_S + PATIENCE_S
        try:
            opened = running.post("/sessions", {"task_id": f"task {number}"}, until=until)
            replies = heard[f"task {number}"] = []
            chat = [{"role": "user", "content": f"Say {number}."}]
            for turn in range(TURNS):
                body = {"model": "m", "messages": chat, "max_tokens": 8}
                reply = running.post(f"/s/{opened['key']}/v1/chat/completions", body, until=until)
                content = reply["choices"][0]["message"]["content"] or ""
                replies.append(reply["id"])
                chat += [
                    {"role": "assistant", "content": content},
                    {"role": "user", "content": f"And {turn}?"},
                ]
                told.release()
            closing = {"reward": float(number), "terminated": True}
            running.post(f"/sessions/{opened['session_id']}/close", closing, until=until)
        except BaseException as error:
            failures.append(error)
            raise

    with programs(tmp_path) as running:
        threads = [threading.Thread(target=talk, args=(running, n)) for n in range(SESSIONS)]
        for thread in threads:
            thread.start()
        for name in ("gateway", "policy-server", "gateway"):
            for _ in range(5):
                assert told.acquire(timeout=START_S), (tmp_path / "gateway.log").read_text()[-2000:]
            running.kill(name)
            running.start(name)
        for thread in threads:
            thread.join()
        assert not failures
    trees = [delivery.tree for delivery in read_journal(tmp_path / "record" / "journal")]
    assert sorted(tree.task_id for tree in trees) == sorted(heard)
    for tree in trees:
        number = int(tree.task_id.split()[-1])
        assert len(heard[tree.task_id]) == TURNS
        assert len(set(heard[tree.task_id])) == TURNS
        assert tree.num_leaves == 1
        # Each reply once, one after the other, and none of which nobody knows.
        assert int(np.sum(tree.sampled)) == TURNS
        assert tree.sequence_return(0) == number
    assert not list((tmp_path / "record" / "sessions").iterdir())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_learner_gets_every_session_of_a_killed_gateway_once(tmp_path: Path) -> None:
    groups, group_size = 3, 2
    failures: list[BaseException] = []
    opened = threading.Barrier(groups * group_size + 1)
    closed = threading.Semaphore(0)
    go_on = threading.Event()

    def talk(running: Programs, number: int) -> None:
        until = time.monotonic() + START_S + PATIENCE_S
        try:
            session = running.post("/sessions", {"metadata": {"number": str(number)}}, until=until)
            opened.wait()
            chat = [{"role": "user", "content": f"Say {number}."}]
            # One of each group ends before the kill, the other goes on after it.
            for turn in range(1 if number % 2 else 3):
                body = {"model": "m", "messages": chat, "max_tokens": 8}
                reply = running.post(f"/s/{session['key']}/v1/chat/completions", body, until=until)
                content = reply["choices"][0]["message"]["content"] or ""
                chat += [{"role": "assistant", "content": content}, {"role": "user", "content": "And?"}]
                if turn == 1:
                    go_on.wait()
            running.post(f"/sessions/{session['session_id']}/close", {"reward": float(number)}, until=until)
            closed.release()
        except BaseException as error:
            failures.append(error)
            opened.abort()
            raise

    with Learner(links_of(tmp_path)) as learner, programs(tmp_path, "--keep") as running:
        learner.offer("trieline/FrozenLake-v0", groups, group_size=group_size)
        threads = [threading.Thread(target=talk, args=(running, n)) for n in range(groups * group_size)]
        for thread in threads:
            thread.start()
        opened.wait(START_S + PATIENCE_S)
        for _ in range(groups):
            assert closed.acquire(timeout=START_S), (tmp_path / "gateway.log").read_text()[-2000:]
        running.kill("gateway")
        running.start("gateway")
        go_on.set()
        first = learner.take(1, timeout_s=START_S)
        running.kill("gateway")
        running.start("gateway")
        for thread in threads:
            thread.join()
        assert not failures
        trees = [*first, *learner.take(groups - 1, timeout_s=START_S)]
        deadline = time.monotonic() + PATIENCE_S
        while [*(tmp_path / "record").glob("*.session.jsonl")] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [*(tmp_path / "record").glob("*.session.jsonl")]
        assert len(learner.journal) == groups
    assert sorted(delivery.assignment_id for delivery in trees) == list(range(groups))
    rewards = [d.tree.sequence_return(leaf) for d in trees for leaf in range(d.tree.num_leaves)]
    assert sorted(rewards) == list(range(groups * group_size))
    # Each reply that was told, once.
    assert sum(int(np.sum(d.tree.sampled)) for d in trees) == groups * (1 + 3)
