"""Child processes of a run: started from specs, watched, restarted where nothing is lost, ended by pid."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from trieline.common.errors import TrielineError, about_file
from trieline.common.restarts import Deaths, RestartPolicy
from trieline.common.text import LINES, visible

log = logging.getLogger(__name__)

# At the end of training the learner says stop to all others, and then ends itself within this.
FAREWELL_S = 10.0
USUAL_RESTARTS = RestartPolicy()
# Safe path, and UTF-8 whatever the locale: as options, since environments and what they start are to find the
# variables of the environment as they are.
PYTHON_OPTIONS = ("-P", "-X", "utf8")


class ChildError(TrielineError):
    """A child process ended in a way that ends the run. Carries the last lines of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpec:
    """One program of the run."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of the `trieline` command."""
    log_file: Path
    restart: Literal["never", "after a signal", "always"] = "never"
    """When it is started again though nobody asked it to end. `after a signal`: what killed it may not come
    again, as an out-of-memory killer's; an error of its own would. `always`: also if it ended well."""
    restart_arguments: tuple[str, ...] = ()
    """Added to `arguments` when it is started again."""
    restarts: RestartPolicy = USUAL_RESTARTS
    essential: bool = True
    """False: the run goes on without it when it is not started again any more."""


class Program(Protocol):
    """A running program, as `subprocess.Popen` has it, but for `kill`."""

    @property
    def pid(self) -> int:
        """Of the process, on its machine."""

    def poll(self) -> int | None:
        """Its exit code; negative: the signal that killed it; None: it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. subprocess.TimeoutExpired: it still runs after `timeout` seconds."""

    def terminate(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """End it and all that it has started."""


class _Here(subprocess.Popen[bytes]):
    """One of this machine. It leads its own process group, so its workers go with it."""

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)


@dataclass(slots=True)
class _Child:
    """One program and its successors."""

    spec: ProcessSpec
    deaths: Deaths
    process: Program | None = None
    ended_at: float | None = None
    """When it was first seen to have ended well, unasked."""
    start_at: float | None = None
    """Of one that is dead and is to be started again."""
    asked: bool = False
    """To stop."""
    given_up: bool = False
    """Dead for good, and the run goes on without it."""

    @property
    def code(self) -> int | None:
        return None if self.process is None else self.process.poll()


Start = Callable[[ProcessSpec, tuple[str, ...]], Program]
"""Begins a program with further arguments."""


class Supervisor:
    """Runs a list of process specs until it is told to stop. Only `wait` and `close` wait."""

    def __init__(self, specs: Sequence[ProcessSpec], *, start: Start | None = None) -> None:
        """`start`: begins a program, on this machine if it is None."""
        self._start = start or start_here
        self._children = {spec.name: _Child(spec=spec, deaths=Deaths(spec.restarts)) for spec in specs}

    def start(self) -> None:
        for child in self._children.values():
            self._spawn(child)

    def check(self) -> set[str]:
        """Names of the programs that have ended well; dead ones are started again when their time comes.

        Raises:
            ChildError: a program failed and may not be started again, or died too often.
        """
        now = time.monotonic()
        return {name for name, child in self._children.items() if self._has_ended(child, now)}

    def pids(self) -> dict[str, int]:
        """Of the programs that run."""
        processes = {name: child.process for name, child in self._children.items()}
        return {name: p.pid for name, p in processes.items() if p is not None and p.poll() is None}

    def wait(self, name: str, timeout_s: float) -> int | None:
        """Exit code of one program, None if it still runs after `timeout_s`."""
        process = self._children[name].process
        assert process is not None, "started"
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, name: str) -> None:
        """Ask one program to stop (SIGTERM). It is not started again."""
        child = self._children[name]
        child.asked, child.start_at = True, None
        if child.process is not None and child.code is None:
            child.process.terminate()

    def close(self, timeout_s: float = 15.0) -> None:
        """Stop every program that is left: SIGTERM, then SIGKILL for those that stay. Idempotent."""
        for name in self._children:
            self.terminate(name)
        deadline = time.monotonic() + timeout_s
        for name, child in self._children.items():
            process = child.process
            if process is None:
                continue
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning(
                    "%s (pid %d) did not stop within %.0f s; killing it", name, process.pid, timeout_s
                )
                process.kill()
                process.wait()

    def _has_ended(self, child: _Child, now: float) -> bool:
        """Whether it ended well for good."""
        code = child.code
        if child.given_up:
            return True
        if child.start_at is not None:
            if now >= child.start_at:
                self._spawn(child, child.spec.restart_arguments)
        elif code == 0:
            child.ended_at = now if child.ended_at is None else child.ended_at
            if child.spec.restart != "always" or child.asked or now - child.ended_at < FAREWELL_S:
                return True
            self._note_death(child, code, now)
        elif code is not None:
            self._note_death(child, code, now)
        return False

    def _note_death(self, child: _Child, code: int, now: float) -> None:
        process, spec = child.process, child.spec
        assert process is not None, "it ended"
        ended = f"{spec.name} (pid {process.pid}) ended with {_exit_text(code)}"
        may = spec.restart == "always" or (spec.restart == "after a signal" and code < 0)
        pause = child.deaths.note(now) if may and not child.asked else None
        if pause is None:
            if len(child.deaths.times) > 1:
                ended += f", {len(child.deaths.times)} deaths within {child.deaths.policy.within_s:g} s"
            if not spec.essential:
                child.given_up = True
                log.warning("%s; the run goes on without it (log: %s)", ended, spec.log_file)
                return
            msg = f"{ended}; its log {spec.log_file} ends:\n{last_lines(spec.log_file)}"
            raise ChildError(msg)
        log.warning("%s; another starts in %.2g s", ended, pause)
        child.start_at = now + pause

    def _spawn(self, child: _Child, more_arguments: tuple[str, ...] = ()) -> None:
        child.start_at = child.ended_at = None
        child.process = self._start(child.spec, more_arguments)


def start_here(spec: ProcessSpec, more_arguments: tuple[str, ...]) -> Program:
    """Begin a program on this machine."""
    # -P: no module is taken from the working folder in place of an installed one. A session of its own:
    # Ctrl-C in the terminal reaches the launcher alone, which then stops the programs in the right order.
    with about_file(spec.log_file), spec.log_file.open("ab") as output:
        return _Here(
            [sys.executable, *PYTHON_OPTIONS, "-m", "trieline", *spec.arguments, *more_arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )


def child_environment() -> dict[str, str]:
    """Of a program that is to end with this one."""
    return {**os.environ, "TRIELINE_LAUNCHER_PID": str(os.getpid())}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for error messages."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        lines = file.read().decode(errors="replace").splitlines()[-count:]
    return visible("\n".join(lines), keep=LINES)


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
