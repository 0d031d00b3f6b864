"""`trieline status | logs | stop`, against real processes that hold a run's lock as a launcher does."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trieline.command_line import main
from trieline.common.lock_holder import LockHolder, hold_process
from trieline.config import load_config
from trieline.launcher import run_stopping
from trieline.launcher.log_reading import read_logs
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.run_state import programs_of, read_state

DEADLINE_S = 20.0
# Holds the lock, starts two programs that write to their logs, and stops as it is told.
LAUNCHER = """
import signal, subprocess, sys, time
from pathlib import Path
from trieline.common.file_lock import file_lock
run, manner = Path(sys.argv[1]), sys.argv[2]
stopping = []
signal.signal(signal.SIGTERM, lambda *_: manner == "deaf" or stopping.append(1))
with file_lock(run / ".launcher.lock", what="to run it"):
    programs = []
    for name in ("learner", "actor-0"):
        with (run / "logs" / f"{name}.log").open("ab") as log:
            code = f"import time; print('{name} began', flush=True); time.sleep(600)"
            programs.append(subprocess.Popen([sys.executable, "-c", code], stdout=log))
    print("started", flush=True)
    while not stopping:
        time.sleep(0.02)
    for program in programs:
        program.kill()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path / 'runs'}", "learner.steps=10"]))


@pytest.fixture
def start(folder: RunFolder) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    # Held: a test may end their launcher, after which nothing says whose they were.
    programs: list[LockHolder | None] = []

    def begin(manner: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", LAUNCHER, str(folder.path), manner]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        wait_for(lambda: set(programs_of(process.pid)) == {"learner", "actor-0"})
        programs.extend(map(hold_process, programs_of(process.pid).values()))
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    for program in programs:
        if program is not None:
            program.signal(signal.SIGKILL)
            program.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def record(folder: RunFolder, step: int, **figures: Any) -> None:
    with folder.metrics.open("a") as file:
        file.write(json.dumps({"step": step, "time": time.time(), **figures}) + "\n")


def test_the_state_of_a_run_follows_its_lock_and_its_records(
    folder: RunFolder, start: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    assert (read_state(folder).state, read_state(folder).figure) == ("stopped", "")
    process = start("gentle")
    assert (read_state(folder).state, read_state(folder).pid) == ("starting", process.pid)
    record(folder, 3, **{"reward/mean": 0.25})
    record(folder, 3, **{"eval/mean": 0.5})
    state = read_state(folder)
    assert (state.state, state.step, state.steps, state.figure) == ("running", 3, 10, "reward 0.25")
    process.kill()
    process.wait()
    assert (read_state(folder).state, read_state(folder).pid) == ("stopped", None)
    record(folder, 10, **{"loss/policy": 2.0})
    assert read_state(folder).state == "finished"


def test_all_runs_are_listed(
    folder: RunFolder, start: Callable[[str], "subprocess.Popen[str]"], capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunFolder.create(load_config(["tiny"], [f"run.folder={folder.path.parent}", "run.name=other"]))
    process = start("gentle")
    record(folder, 3, **{"reward/mean": 0.25})
    assert main(["status", "--folder", str(folder.path.parent)]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[-1]: line.split() for line in out.splitlines()}
    ours = rows[str(folder.path)]
    assert ours[:4] == ["running", "3/10", "reward", "0.25"]
    assert str(process.pid) in ours
    assert rows[str(other.path)][:2] == ["stopped", "0/200"]
    assert main(["status", str(folder.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["programs"]) == ("running", programs_of(process.pid))
    assert main(["status", str(folder.path)]) == 0
    assert "actor-0" in capsys.readouterr().out
    assert main(["status", str(folder.path.parent)]) == 2
    assert "expected a run folder" in capsys.readouterr().err


def test_a_run_is_stopped_and_waited_for(
    folder: RunFolder, start: Callable[[str], "subprocess.Popen[str]"], capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("gentle")
    assert main(["stop", str(folder.path)]) == 0
    assert process.wait(0) == 0, "it has ended by then"
    assert "has ended" in capsys.readouterr().out
    assert main(["stop", str(folder.path)]) == 0
    assert "is not running" in capsys.readouterr().out


def test_one_that_does_not_stop_is_named_and_killed_with_its_programs(
    folder: RunFolder,
    start: Callable[[str], "subprocess.Popen[str]"],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("STOP_LEARNER_S", "STOP_OTHERS_S", "MARGIN_S"):
        monkeypatch.setattr(run_stopping, name, 0.1)
    process = start("deaf")
    programs = programs_of(process.pid)
    assert main(["stop", str(folder.path)]) == 2
    assert "stop --now" in capsys.readouterr().err
    assert process.poll() is None
    assert main(["stop", str(folder.path), "--now"]) == 0
    wait_for(lambda: process.poll() is not None)
    for pid in programs.values():
        wait_for(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_logs_are_read_from_their_ends_and_followed_until_the_run_is_over(folder: RunFolder) -> None:
    (folder.log("learner")).write_text("one\ntwo\nthree \x1b[2J\n")
    (folder.log("actor-0")).write_text("an actor's\nhalf a li")
    assert list(read_logs(folder, "learner", lines=2, follow=False, goes_on=lambda: True)) == [
        "two",
        "three \\x1b[2J",
    ]
    assert list(read_logs(folder, None, lines=1, follow=False, goes_on=lambda: True)) == [
        "actor-0        | an actor's",
        "learner        | three \\x1b[2J",
    ]
    looks = iter([True, False])

    def goes_on() -> bool:
        with folder.log("actor-0").open("a") as file:
            file.write("ne\nand more\n")
        with folder.log("late").open("a") as file:
            file.write("began\n")
        return next(looks)

    followed = read_logs(folder, None, lines=0, follow=True, goes_on=goes_on)
    assert sorted(followed) == sorted(
        [
            "actor-0        | half a line",
            "actor-0        | and more",
            "late           | began",
            "actor-0        | ne",
            "actor-0        | and more",
            "late           | began",
        ]
    )


@pytest.mark.parametrize("name", ["../config", "actor-9"])
def test_a_log_that_is_not_there_is_named_with_those_that_are(
    folder: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.log("learner").touch()
    assert main(["logs", str(folder.path), name]) == 2
    assert "expected a log of learner" in capsys.readouterr().err
