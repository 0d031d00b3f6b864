"""The launcher's process handling, with real child processes."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from trieline.launcher import supervisor as module
from trieline.launcher.supervisor import ChildError, ProcessSpec, Supervisor

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children run `program.py ARGUMENTS` in place of `python -m trieline ARGUMENTS`."""
    shim = tmp_path / "shim"
    shim.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shim))


def spec(tmp_path: Path, code: str, *, name: str = "child", restart: bool = False) -> ProcessSpec:
    return ProcessSpec(name=name, arguments=(code,), log_file=tmp_path / f"{name}.log", restart=restart)


def wait_until(supervisor: Supervisor, name: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while name not in supervisor.check():
        assert time.monotonic() < deadline, f"{name} did not end within {DEADLINE_S} s"
        time.sleep(0.05)


def test_a_program_that_ends_well_is_seen(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "print('hello')")])
    supervisor.start()
    wait_until(supervisor, "child")
    supervisor.close()
    assert (tmp_path / "child.log").read_text() == "hello\n"


def test_a_failure_carries_the_end_of_the_log(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "raise SystemExit('the reason')")])
    supervisor.start()
    with pytest.raises(ChildError, match="the reason"):
        wait_until(supervisor, "child")
    supervisor.close()


def test_a_program_that_may_restart_is_started_again_and_not_for_ever(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "print('started'); raise SystemExit(3)", restart=True)])
    supervisor.start()
    with pytest.raises(ChildError, match="exit code 3"):
        wait_until(supervisor, "child")
    supervisor.close()
    assert (tmp_path / "child.log").read_text().count("started") == module.MAX_RESTARTS + 1


def test_close_kills_what_will_not_stop_and_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); pid = os.fork(); "
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    supervisor = Supervisor([spec(tmp_path, stubborn)])
    supervisor.start()
    log = tmp_path / "child.log"
    deadline = time.monotonic() + DEADLINE_S
    while len(log.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    supervisor.close(timeout_s=0.3)
    supervisor.close()
    # SIGKILL is on its way to a grandchild when close() returns: only its own children can be waited for.
    for pid in map(int, log.read_text().split()):
        while _runs(pid):
            assert time.monotonic() < deadline, f"{pid} still runs"
            time.sleep(0.01)


def test_a_death_by_signal_is_named(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "import time; time.sleep(600)")])
    supervisor.start()
    os.kill(supervisor.pids()["child"], signal.SIGKILL)
    with pytest.raises(ChildError, match="signal SIGKILL"):
        wait_until(supervisor, "child")
    supervisor.close()


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
