"""Child processes of a run: started from specs, watched, restarted where nothing is lost, ended by pid."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from trieline.common.errors import TrielineError

log = logging.getLogger(__name__)

# A process that dies this often within one run has a fault that starting it again will not cure.
MAX_RESTARTS = 5


class ChildError(TrielineError):
    """A child process ended in a way that ends the run. Carries the last lines of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpec:
    """One program of the run."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of the `trieline` command."""
    log_file: Path
    restart: bool = False
    """Start it again when it dies. Only for programs whose death loses nothing."""
    environment: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs a list of process specs until it is told to stop."""

    def __init__(self, specs: list[ProcessSpec]) -> None:
        self._specs = specs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, int] = {}

    def start(self) -> None:
        for spec in self._specs:
            self._spawn(spec)

    def check(self) -> dict[str, int]:
        """Exit codes of the programs that have ended with 0 so far; dead ones are started again.

        Raises:
            ChildError: a program failed and may not be started again.
        """
        ended = {}
        for spec in self._specs:
            process = self._running[spec.name]
            code = process.poll()
            if code is None:
                continue
            if code == 0:
                ended[spec.name] = code
            elif spec.restart and self._restarts.get(spec.name, 0) < MAX_RESTARTS:
                self._restarts[spec.name] = self._restarts.get(spec.name, 0) + 1
                log.warning(
                    "%s (pid %d) ended with %s; starting it again", spec.name, process.pid, _exit_text(code)
                )
                self._spawn(spec)
            else:
                ended_with = f"{spec.name} (pid {process.pid}) ended with {_exit_text(code)}"
                msg = f"{ended_with}; its log {spec.log_file} ends:\n{last_lines(spec.log_file)}"
                raise ChildError(msg)
        return ended

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items() if process.poll() is None}

    def wait(self, name: str, timeout_s: float) -> int | None:
        """Exit code of one program, None if it still runs after `timeout_s`."""
        try:
            return self._running[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, name: str) -> None:
        """Ask one program to stop (SIGTERM)."""
        process = self._running.get(name)
        if process is not None and process.poll() is None:
            process.terminate()

    def close(self, timeout_s: float = 15.0) -> None:
        """Stop every program that is left: SIGTERM, then SIGKILL for those that stay. Idempotent."""
        for name in self._running:
            self.terminate(name)
        deadline = time.monotonic() + timeout_s
        for name, process in self._running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning(
                    "%s (pid %d) did not stop within %.0f s; killing it", name, process.pid, timeout_s
                )
                # The child leads its own process group, so its workers go with it.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _spawn(self, spec: ProcessSpec) -> None:
        # A session of its own: Ctrl-C in the terminal reaches the launcher alone, which then stops the
        # programs in the right order.
        with spec.log_file.open("ab") as output:
            self._running[spec.name] = subprocess.Popen(
                [sys.executable, "-m", "trieline", *spec.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TRIELINE_LAUNCHER_PID": str(os.getpid()), **spec.environment},
                start_new_session=True,
            )


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for error messages."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
