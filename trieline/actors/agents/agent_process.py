"""One agent at work: started, watched, and ended with everything that it started.

Invariant: no process with the mark of an episode in its environment lives on after `end_all_of`.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MARK = "TRIELINE_EPISODE"
"""The variable by which the processes of an episode are known, whatever group or parent they have."""
OUTPUT, ERRORS = "stdout", "stderr"
"""Files of what it prints."""
TAIL_BYTES = 2000
"""Of its errors, for people."""
FILE_BYTES = 1 << 30
"""Of one file that an agent writes, what it prints included: one that prints without end must not fill the
disk."""
END_S = 10.0
"""For all processes of an episode to be gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What to start."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """All of it, `MARK` included."""
    folder: Path
    """Where it works."""
    files: Path
    """The folder of standard input, output and errors: not the agent's."""
    task: Path
    """Standard input."""
    file_bytes: int = FILE_BYTES
    """Of each file that it writes at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How it ended by itself."""

    status: int
    """0, another exit status, or minus the signal that killed it."""


class Starter(Protocol):
    """Starts agents."""

    async def run(self, start: Start) -> Ended:
        """Until it ends by itself, or is cancelled. Nothing of its process group is left then.

        Raises:
            OSError: it can't be started.
        """

    async def close(self) -> None:
        """Idempotent."""


class Programs:
    """Each agent is a program that is started afresh."""

    async def run(self, start: Start) -> Ended:
        """As in `Starter`."""
        with contextlib.ExitStack() as files:
            standard_input = files.enter_context(start.task.open("rb"))
            output = files.enter_context((start.files / OUTPUT).open("wb"))
            errors = files.enter_context((start.files / ERRORS).open("wb"))
            process = await asyncio.create_subprocess_exec(
                *start.argv,
                stdin=standard_input,
                stdout=output,
                stderr=errors,
                cwd=start.folder,
                env=dict(start.environment),
                start_new_session=True,
            )
        try:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (start.file_bytes, start.file_bytes))
            return Ended(status=await process.wait())
        finally:
            # What it left in its group; others are known by `MARK`.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Nothing is kept."""


def read_output(start: Start, most: int) -> str:
    """What it printed, at most so many bytes."""
    return _read(start.files / OUTPUT, 0, most)


def read_errors(start: Start) -> str:
    """The end of what it said on standard error."""
    path = start.files / ERRORS
    size = path.stat().st_size if path.exists() else 0
    return _read(path, max(0, size - TAIL_BYTES), TAIL_BYTES)


def end_all_of(episode: str) -> int:
    """Kill the processes of an episode until none is left. Returns how many there were."""
    wanted = f"{MARK}={episode}".encode()
    killed: set[int] = set()
    deadline = time.monotonic() + END_S
    while found := [pid for pid in _processes() if wanted in _environment(pid) and _end(pid)]:
        killed.update(found)
        if time.monotonic() > deadline:
            log.warning("episode %s: processes %s still live after %g s", episode, found, END_S)
            break
    return len(killed)


def _end(pid: int) -> bool:
    """Whether it was still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208  # half the time


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it is somebody else's, or gone
        return []


def _read(path: Path, start: int, most: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""
