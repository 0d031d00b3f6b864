"""A recording gateway and its policy server are killed while agents talk: what anybody was told is kept."""

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

from trieline.wire.journal import read_journal

SESSIONS, TURNS = 4, 6
START_S = 120.0
PATIENCE_S = 120.0


class Programs:
    """A policy server and a gateway that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
            trajectories = "ipc://{folder}/trajectories"
            generate = "ipc://{folder}/generate"
            weights_fetch = "ipc://{folder}/weights"
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
            command += ["--record", str(self.folder / "record")]
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
def programs(folder: Path) -> Iterator[Programs]:
    running = Programs(folder)
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
