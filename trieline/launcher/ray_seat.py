"""What runs on a node of a Ray cluster: one program of ours, the same command as anywhere.

In the command the run folder's place is taken by a folder of the seat's own, with the run's configuration in
it, so that no folder has to be shared. What the program says goes back with every look at it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trieline.common.owned_folder import new_folder
from trieline.launcher.supervisor import PYTHON_OPTIONS, child_environment

LOOK_S = 0.25
"""How long a look waits for the program's end."""
MOST_OUTPUT = 1024 * 1024
"""Bytes that one look takes back."""
CONFIG = "config.toml"


class Seat:
    """A place for one program; Ray makes it on some node. The program dies with it."""

    def __init__(self, arguments: Sequence[str], *, run_dir: str, config: bytes) -> None:
        self._folder = new_folder("trieline-seat-")
        own = self._folder.path
        (own / CONFIG).write_bytes(config)
        (own / "logs").mkdir()
        moved = [argument.replace(run_dir, str(own)) for argument in arguments]
        self._output = (own / "output").open("w+b")
        environment = child_environment()
        # Ray's word to its own workers: how many threads a program takes is said by its settings.
        environment.pop("OMP_NUM_THREADS", None)
        self._process = subprocess.Popen(
            [sys.executable, *PYTHON_OPTIONS, "-m", "trieline", *moved],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path.home(),
            start_new_session=True,
        )
        self._read = 0

    def look(self) -> tuple[int, int | None, bytes]:
        """Process id, exit code (None: it runs), and what it has said since the last look."""
        try:
            code: int | None = self._process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            code = None
        said = os.pread(self._output.fileno(), MOST_OUTPUT, self._read)
        self._read += len(said)
        return self._process.pid, None if len(said) == MOST_OUTPUT else code, said

    def signal(self, number: int) -> None:
        """SIGKILL goes to all that the program has started."""
        if self._process.poll() is not None:
            return
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)
