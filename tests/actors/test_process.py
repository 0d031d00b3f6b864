import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.actors.fake_envs import BOXED, COUNTING, FAULTY, POOLED
from tests.actors.peers import Learner, ScriptedServer, ipc_links
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.errors import ChatTemplateError, EnvironmentSetupError
from trieline.actors.process import run_actor
from trieline.envs.sandbox import temporary
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.messages import Sampling

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of an ipc socket has at most 107 bytes, which pytest's own folders may pass.
    path = Path(tempfile.mkdtemp(prefix="actor-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def links(folder: Path) -> LinksConfig:
    return ipc_links(folder, peer_timeout_s=3.0)


@pytest.fixture
def start(folder: Path, links: LinksConfig, chat_folder: Path) -> Iterator[Start]:
    """Start an actor program on `env` with these settings."""
    programs: list[subprocess.Popen[bytes]] = []

    def start(env: EnvConfig, **settings: object) -> "subprocess.Popen[bytes]":
        arguments = {
            "config": settings,
            "model_folder": str(chat_folder),
            "envs": msgspec.to_builtins([env]),
            "links": msgspec.to_builtins(links),
            "log_file": str(folder / "actor.log"),
        }
        command = [sys.executable, "-m", "tests.actors.actor_program", json.dumps(arguments)]
        programs.append(subprocess.Popen(command, cwd=ROOT))
        return programs[-1]

    yield start
    for program in programs:
        if program.poll() is None:
            for worker in workers_of(program):
                worker.kill()
            program.kill()
            program.wait()


def workers_of(program: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(program.pid).children()
    return children


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.02)


def reply(prompt: str, sampling: Sampling) -> str:
    return ("good", "bad")[sampling.seed % 2]


def test_workers_play_what_the_learner_asks_for_until_it_says_stop(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start
) -> None:
    env = EnvConfig(id=COUNTING)
    with Learner(links) as learner, ScriptedServer(links, renderer, reply):
        program = start(env, processes=2, episodes=6, assignments=2, branching="random", branches=1)
        wait_until(lambda: len(learner.receiver.actors()) == 2, "both workers' hello")
        learner.offer(COUNTING, 40)
        deliveries = learner.take(40)
        learner.receiver.stop_actors("done")
        assert program.wait(PATIENCE_S) == 0
        wait_until(lambda: not learner.receiver.actors(), "the workers' goodbye")

    assert sorted(d.assignment_id for d in deliveries) == list(range(40))
    assert len({d.actor_id for d in deliveries}) == 2
    for delivery in deliveries:
        assert delivery.tree.task_id == f"train-{delivery.assignment_id}-0"
        assert delivery.tree.leaf_causes == ("",) * 4
    log = (folder / "actor.log").read_text()
    assert log.count("the learner says stop: done") == 2
    assert len({line.split()[3] for line in log.splitlines() if "says stop" in line}) == 2


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_missing(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start
) -> None:
    def slowly(prompt: str, sampling: Sampling) -> str:
        time.sleep(0.002)
        return "good"

    with Learner(links) as learner, ScriptedServer(links, renderer, slowly):
        program = start(EnvConfig(id=COUNTING), processes=2, assignments=4)
        wait_until(lambda: len(learner.receiver.actors()) == 2, "both workers' hello")
        learner.offer(COUNTING, 60)
        deliveries = learner.take(5)
        victim = workers_of(program)[0]
        victim.kill()
        deliveries += learner.take(55)
        wait_until(lambda: len(workers_of(program)) == 2, "another worker")
        program.terminate()
        assert program.wait(PATIENCE_S) == 0

    assert sorted(d.assignment_id for d in deliveries) == list(range(60))
    assert len(learner.journal) == 60
    assert f"(pid {victim.pid}) ended with status -9; another starts" in (folder / "actor.log").read_text()


def test_the_process_pool_of_an_environment_ends_without_the_worker(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start
) -> None:
    with Learner(links) as learner, ScriptedServer(links, renderer, reply):
        program = start(EnvConfig(id=POOLED), processes=1)
        learner.offer(POOLED, 4, group_size=1)
        deliveries = learner.take(4)
        (worker,) = workers_of(program)
        assert worker.children() == []
        learner.receiver.stop_actors("done")
        assert program.wait(PATIENCE_S) == 0
    assert {d.tree.leaf_causes for d in deliveries} == {("",)}
    assert len({d.actor_id for d in deliveries}) == 1
    assert "another starts" not in (folder / "actor.log").read_text()


def test_a_worker_that_an_environment_ends_with_status_0_is_replaced(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start
) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "vanish", "at": 3})
    with Learner(links) as learner, ScriptedServer(links, renderer, reply):
        program = start(env, processes=1)
        wait_until(lambda: learner.receiver.actors(), "the worker's hello")
        (first,) = workers_of(program)
        learner.offer(FAULTY, 1, group_size=1)
        wait_until(lambda: [w.pid for w in workers_of(program) if w.pid != first.pid], "another worker")
        program.terminate()
        assert program.wait(PATIENCE_S) == 0
    assert f"(pid {first.pid}) ended with status 0; another starts" in (folder / "actor.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_in_the_middle_of_episodes(
    folder: Path, links: LinksConfig, start: Start, number: signal.Signals
) -> None:
    with Learner(links) as learner:  # and no policy server: every episode waits for one
        program = start(EnvConfig(id=COUNTING), processes=2)
        wait_until(lambda: len(learner.receiver.actors()) == 2, "both workers' hello")
        learner.offer(COUNTING, 6)
        wait_until(
            lambda: sum(a.running_episodes for a in learner.receiver.actors().values()) == 18,
            "18 running episodes",
        )
        began = time.monotonic()
        program.send_signal(number)
        assert program.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 10
        wait_until(lambda: not learner.receiver.actors(), "the workers' goodbye")
        assert learner.receiver.outstanding() == 6  # for others
    assert "killed" not in (folder / "actor.log").read_text()


def test_workers_end_when_their_parent_is_killed(links: LinksConfig, start: Start) -> None:
    with Learner(links) as learner:
        program = start(EnvConfig(id=COUNTING), processes=2)
        wait_until(lambda: len(learner.receiver.actors()) == 2, "both workers' hello")
        workers = workers_of(program)
        program.kill()
        program.wait()
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not alive
        wait_until(lambda: not learner.receiver.actors(), "the workers' goodbye")


def test_workers_whose_parent_is_killed_close_their_sandboxes(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    with Learner(links) as learner, ScriptedServer(links, renderer, reply):
        program = start(EnvConfig(id=BOXED), processes=1)
        learner.offer(BOXED, 1, group_size=1)
        learner.take(1)
        workers = workers_of(program)
        assert list(folder.glob(f"{temporary.PREFIX}*"))
        program.kill()
        program.wait()
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not alive
    assert not list(folder.glob(f"{temporary.PREFIX}*"))


def test_environments_that_hang_again_and_again_end_the_program(
    folder: Path, links: LinksConfig, renderer: ChatRenderer, start: Start
) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "hang", "at": 1})
    with Learner(links) as learner, ScriptedServer(links, renderer, reply):
        program = start(env, max_stuck_threads=2, turn_timeout_s=0.1, env_threads=3)
        learner.offer(FAULTY, 200, group_size=1)
        assert program.wait(PATIENCE_S) == 1
    log = (folder / "actor.log").read_text()
    assert "expected at most 2 environment calls that never come back, got 3" in log
    assert "died 5 times" in log
    assert {d.tree.leaf_causes for d in learner.journal} == {("timeout",)}


@pytest.mark.parametrize(
    ("env_id", "address", "error"),
    [
        ("no/Such-v0", "ipc:///tmp/a", EnvironmentSetupError),
        ("no_module_of_that_name:no/Such-v0", "ipc:///tmp/a", EnvironmentSetupError),
        (COUNTING, "tcp://192.0.2.1:7701", AddressError),
    ],
)
def test_what_can_not_be_played_is_said_before_anything_starts(
    chat_folder: Path, env_id: str, address: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run_actor(
            ActorConfig(),
            model_folder=chat_folder,
            envs=[EnvConfig(id=env_id)],
            links=LinksConfig(trajectories=address, keys="/no/such/folder"),
            log_file=None,
        )


def test_a_folder_that_is_no_model_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError):
        run_actor(ActorConfig(), model_folder=tmp_path, envs=[], links=LinksConfig(), log_file=None)
