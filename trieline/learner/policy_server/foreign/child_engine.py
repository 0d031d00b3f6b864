"""An engine of others as a child of the policy server: started, waited for, and ended with it.

It runs under a keeper (`keeper.py`) that ends the engine with all its processes when the policy server is
gone, however it went.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trieline.common.credentials import shown_command
from trieline.common.text import LINES, visible
from trieline.learner.policy_server.errors import EngineGoneError

log = logging.getLogger(__name__)

KEEPER = Path(__file__).with_name("keeper.py")
END_S = 15.0
"""For it to end by itself when it is asked to."""
LOG_BYTES = 4000
"""Of the end of its log, for errors."""


class ChildEngine:
    """One process with those that it starts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_file: Path | None) -> None:
        """Start it. `log_file`: of all that it prints; None: where this process prints, too."""
        self._log_file = log_file
        self._name = command[0]
        log.info("starting %s; its log: %s", " ".join(shown_command(command)), log_file or "here")
        with contextlib.ExitStack() as files:
            output = None if log_file is None else files.enter_context(log_file.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(KEEPER), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_outside(), **environment},
                start_new_session=True,
            )

    def expect_alive(self) -> None:
        """Raise EngineGoneError, with the end of its log, if it has ended."""
        if (status := self._process.poll()) is not None:
            msg = f"{self._name} (pid {self._process.pid}) ended with {status}{self._last_words()}"
            raise EngineGoneError(msg)

    def close(self) -> None:
        """End it. Idempotent."""
        if self._process.stdin is not None:
            # The keeper sees it, asks the engine to end, and kills what is left.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(END_S + 5.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_words(self) -> str:
        if self._log_file is None:
            return ""
        with self._log_file.open("rb") as file:
            file.seek(max(0, self._log_file.stat().st_size - LOG_BYTES))
            end = visible(file.read().decode("utf-8", "replace"), keep=LINES)
        return f"; its log {self._log_file} ends:\n{end}"


def _outside() -> dict[str, str]:
    """Our environment without what is meant for our own Python and threads: the engine has its own."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GOMP_SPINCOUNT", "TRIELINE_LAUNCHER_PID")
    return {name: value for name, value in os.environ.items() if name not in ours}
