"""An engine that is started here: its log, and its end with whoever started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trieline.learner.policy_server.errors import EngineGoneError
from trieline.learner.policy_server.foreign.child_engine import KEEPER, ChildEngine

DEADLINE_S = 30.0
LONG = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
WORKING = [sys.executable, "-c", f"{LONG}\nprint('listening', flush=True)\ntime.sleep(60)"]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def session_of(pid: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            found.append(int(folder.name))
    return found


def test_it_logs_and_ends_with_all_that_it_started(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    child = ChildEngine(WORKING, {"MARK": "1"}, log)
    wait_for(lambda: log.exists() and "listening" in log.read_text())
    child.expect_alive()
    session = child._process.pid
    assert len(session_of(session)) == 3, "the keeper, the engine, and what that started"
    child.close()
    child.close()
    # What is killed takes a moment to be gone.
    wait_for(lambda: not session_of(session))


def test_the_end_of_its_log_says_why_it_ended(tmp_path: Path) -> None:
    child = ChildEngine(
        [sys.executable, "-c", "raise SystemExit('no such \\033 model')"], {}, tmp_path / "log"
    )
    child._process.wait(DEADLINE_S)
    with pytest.raises(EngineGoneError, match=r"ended with 1; its log .*log ends:\nno such \\x1b model"):
        child.expect_alive()
    child.close()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = ChildEngine(["/no/such/engine"], {}, tmp_path / "log")
    child._process.wait(DEADLINE_S)
    with pytest.raises(EngineGoneError, match="can't start /no/such/engine: No such file"):
        child.expect_alive()
    child.close()


def test_it_ends_with_a_parent_that_is_killed() -> None:
    starter = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, {str(KEEPER)!r}, *{WORKING!r}], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE, start_new_session=True)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        session = int(parent.stdout.readline())
        assert len(session_of(session)) == 3
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not session_of(session))
