"""The launcher's process handling, with real child processes."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trieline.common.restarts import RestartPolicy
from trieline.launcher import supervisor as module
from trieline.launcher.supervisor import ChildError, ProcessSpec, Supervisor

DEADLINE_S = 20.0
SLEEP = "import time; print('started', flush=True); time.sleep(600)"
QUICK = RestartPolicy(max_deaths=3, within_s=600.0, first_pause_s=0.05)


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children run `program.py ARGUMENTS` in place of `python -P -X utf8 -m trieline ARGUMENTS`."""
    shim = tmp_path / "shim"
    shim.write_text(f'#!/bin/sh\nshift {len(module.PYTHON_OPTIONS) + 2}\nexec {sys.executable} -c "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shim))
    monkeypatch.setattr(module, "FAREWELL_S", 0.1)


def spec(tmp_path: Path, code: str, *, name: str = "child", **options: Any) -> ProcessSpec:
    options = {"restarts": QUICK, **options}
    return ProcessSpec(name=name, arguments=(code,), log_file=tmp_path / f"{name}.log", **options)


def wait_until(supervisor: Supervisor, name: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while name not in supervisor.check():
        assert time.monotonic() < deadline, f"{name} did not end within {DEADLINE_S} s"
        time.sleep(0.05)


def wait_for_log(supervisor: Supervisor, log: Path, text: str, count: int = 1) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not log.exists() or log.read_text().count(text) < count:
        assert time.monotonic() < deadline, log.read_text()
        supervisor.check()
        time.sleep(0.05)


def test_a_program_that_ends_well_is_seen(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "print('hello')")])
    supervisor.start()
    wait_until(supervisor, "child")
    supervisor.close()
    assert (tmp_path / "child.log").read_text() == "hello\n"


def test_a_failure_carries_the_end_of_the_log_for_people_to_read(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "raise SystemExit('the reason\\x1b[2J')")])
    supervisor.start()
    with pytest.raises(ChildError, match=r"exit code 1; its log .* ends:\nthe reason\\x1b\[2J"):
        wait_until(supervisor, "child")
    supervisor.close()


@pytest.mark.parametrize("status", [0, 3])
def test_a_program_that_may_restart_is_started_again_and_not_for_ever(tmp_path: Path, status: int) -> None:
    code = f"print('started'); raise SystemExit({status})"
    supervisor = Supervisor([spec(tmp_path, code, restart="always")])
    supervisor.start()
    with pytest.raises(ChildError, match=f"exit code {status}, 3 deaths within 600 s; its log"):
        wait_until(supervisor, "none")
    supervisor.close()
    assert (tmp_path / "child.log").read_text().count("started") == QUICK.max_deaths


def test_the_run_goes_on_without_a_program_that_is_not_essential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "print('started'); raise SystemExit(3)"
    supervisor = Supervisor([spec(tmp_path, code, restart="always", essential=False)])
    supervisor.start()
    wait_until(supervisor, "child")
    assert supervisor.pids() == {}
    supervisor.close()
    assert "the run goes on without it" in caplog.text
    assert (tmp_path / "child.log").read_text().count("started") == QUICK.max_deaths


def test_one_that_dies_now_and_then_is_started_again_without_end(tmp_path: Path) -> None:
    seldom = RestartPolicy(max_deaths=2, within_s=0.0, first_pause_s=0.0)
    supervisor = Supervisor(
        [spec(tmp_path, "print('started'); raise SystemExit(3)", restart="always", restarts=seldom)]
    )
    supervisor.start()
    wait_for_log(supervisor, tmp_path / "child.log", "started", count=7)
    supervisor.close()


def test_the_pause_before_a_restart_holds_up_nobody(tmp_path: Path) -> None:
    long = RestartPolicy(first_pause_s=600.0, max_pause_s=600.0)
    supervisor = Supervisor(
        [
            spec(tmp_path, "raise SystemExit(3)", restart="always", restarts=long),
            spec(tmp_path, SLEEP, name="other", restart="always"),
        ]
    )
    supervisor.start()
    deadline = time.monotonic() + DEADLINE_S
    while "child" in supervisor.pids():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(3):
        assert supervisor.check() == set()
    assert list(supervisor.pids()) == ["other"]
    supervisor.close()


def test_one_that_a_signal_killed_goes_on_with_other_arguments_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import sys, time; print('with', sys.argv[1:], flush=True); time.sleep(0 if sys.argv[1:] else 600)"
    supervisor = Supervisor([spec(tmp_path, code, restart="after a signal", restart_arguments=("--resume",))])
    supervisor.start()
    log = tmp_path / "child.log"
    wait_for_log(supervisor, log, "with []")
    pid = supervisor.pids()["child"]
    os.kill(pid, signal.SIGKILL)
    wait_until(supervisor, "child")
    supervisor.close()
    assert log.read_text() == "with []\nwith ['--resume']\n"
    assert caplog.messages == [f"child (pid {pid}) ended with signal SIGKILL; another starts in 0.05 s"]


def test_an_error_of_its_own_is_no_signal(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "raise SystemExit(1)", restart="after a signal")])
    supervisor.start()
    with pytest.raises(ChildError, match="exit code 1"):
        wait_until(supervisor, "child")
    supervisor.close()


def test_one_that_was_asked_to_stop_is_not_started_again(tmp_path: Path) -> None:
    long = RestartPolicy(first_pause_s=600.0, max_pause_s=600.0)
    supervisor = Supervisor([spec(tmp_path, SLEEP, restart="after a signal", restarts=long)])
    supervisor.start()
    os.kill(supervisor.pids()["child"], signal.SIGKILL)
    assert supervisor.wait("child", DEADLINE_S) == -signal.SIGKILL
    assert supervisor.check() == set(), "it is to be started again"
    supervisor.terminate("child")
    assert supervisor.wait("child", 0.0) == -signal.SIGKILL
    with pytest.raises(ChildError, match="signal SIGKILL"):
        supervisor.check()
    supervisor.close()


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
    supervisor = Supervisor([spec(tmp_path, SLEEP)])
    supervisor.start()
    os.kill(supervisor.pids()["child"], signal.SIGKILL)
    with pytest.raises(ChildError, match="signal SIGKILL"):
        wait_until(supervisor, "child")
    supervisor.close()


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
