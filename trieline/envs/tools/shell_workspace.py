"""The sandbox of one agent with a shell: opened when it is first needed, and closed for certain.

It is one of a bounded number in this process. Whoever closes it, the owner, the garbage collector or the end
of the process, ends what runs in it and gives its place back.
"""

import errno
import threading
from contextlib import ExitStack
from typing import IO

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import (
    Backend,
    ExecResult,
    Places,
    Sandbox,
    SandboxLimits,
    fork,
    shared_pool,
)
from trieline.envs.tools.shell_task import ShellTask

QUIET = {"PAGER": "cat", "MANPAGER": "cat", "LESS": "-R"}
"""Nothing waits for a key."""
MOST_LEFT, MOST_DEPTH = 2_000, 100
"""Files and folders, and folders in each other, that are copied out of it: more take seconds, or overflow."""
MOST_WORKSPACES = 1_024
"""Of the pool, whose size counts when it is first asked for: it is the places that bound them."""
_COUNT = (
    f"find . -mindepth {MOST_DEPTH} -printf d -quit; find . -printf x 2>/dev/null | head -c {MOST_LEFT + 2}"
)
"""Prints a `d` if folders are too deep, and an `x` for each file or folder. Its tools can't be replaced."""


class ShellWorkspace:
    """Used by one thread at a time; any thread may close it."""

    def __init__(self, backend: Backend, places: Places, limits: SandboxLimits) -> None:
        self._backend: Backend = backend
        self._places = places
        self._limits = limits
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._closing = ExitStack()
        self.is_lost = False
        """Has the agent made it unusable? A program may take so much that the sandbox ends with it."""

    @property
    def is_open(self) -> bool:
        """Did the agent act in it?"""
        return self._sandbox is not None

    def open(self, task: ShellTask) -> None:
        """Open it with the files of the task, if it is not. SandboxError if a sandbox can't be had."""
        if self._sandbox is not None:
            return
        with ExitStack() as undo:
            undo.enter_context(self._places.take())
            pool = shared_pool(self._backend, self._limits, size=MOST_WORKSPACES)
            sandbox = undo.enter_context(pool.lend())
            sandbox.put(task.archive())
            self._sandbox, self._closing = sandbox, undo.pop_all()

    def run(self, line: str, seconds: float) -> ExecResult:
        """Run a line of shell; stderr goes where stdout goes. SandboxError if the sandbox fails."""
        result = self._open_one.exec(
            ["bash", "-c", f"exec 2>&1\n{line}"], wall_seconds=seconds, environment=QUIET
        )
        self.is_lost = result.over_disk or (result.oom and not self._is_alive())
        return result

    def _is_alive(self) -> bool:
        try:
            self._open_one.exec(["true"])
        except SandboxError:
            return False
        return True

    def take_files(self, out: IO[bytes]) -> None:
        """Write a tar of all files. No program runs any more. OSError for what can't be one."""
        self._check_can_be_copied()
        self._open_one.get(out, max_bytes=self._limits.disk_bytes)

    def _check_can_be_copied(self) -> None:
        result = self._open_one.exec(["sh", "-c", _COUNT])
        if result.stdout.startswith(b"d"):
            raise OSError(errno.ELOOP, f"expected at most {MOST_DEPTH} folders in each other")
        if result.stderr or result.exit_code or result.timed_out:
            raise OSError(errno.EACCES, "expected folders that can be read")
        if len(result.stdout) + result.stdout_left_out > MOST_LEFT + 1:
            raise OSError(errno.EMFILE, f"expected at most {MOST_LEFT:,} files and folders")

    def fork(self) -> "ShellWorkspace":
        """An independent copy in the same state, or a lost one if the agent left what can't be copied.

        SandboxError if there is no place for it.
        """
        copy = ShellWorkspace(self._backend, self._places, self._limits)
        copy.is_lost = self.is_lost
        if self._sandbox is None or self.is_lost:
            return copy
        with ExitStack() as undo:
            undo.enter_context(self._places.take())
            try:
                self._check_can_be_copied()
                sandbox = fork(self._sandbox)
            except OSError:  # too many files, sparse ones of more than the disk, no permission: its own doing
                copy.is_lost = True
                return copy
            undo.callback(sandbox.close)
            copy._sandbox, copy._closing = sandbox, undo.pop_all()
        return copy

    def close(self) -> None:
        """End the sandbox. Idempotent; it can be opened again, for another episode."""
        with self._lock:
            closing, self._closing = self._closing, ExitStack()
            self._sandbox = None
            self.is_lost = False
        closing.close()

    @property
    def _open_one(self) -> Sandbox:
        assert self._sandbox is not None, "the workspace was never opened"
        return self._sandbox
