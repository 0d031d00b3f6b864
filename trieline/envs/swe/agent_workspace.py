"""The workspace of one agent: opened when it is first needed, without history, and closed for certain.

It is one of a bounded number: `places` are those of all agents in this process. Whoever closes it, the owner,
the garbage collector or the end of the process, ends its sandbox and gives its place back.
"""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from trieline.envs.errors import PatchError, SandboxError, TaskError
from trieline.envs.sandbox import ExecResult, Place, Places, Sandbox, SandboxLimits
from trieline.envs.sandbox.base import NO_MORE_VARIABLES, fork
from trieline.envs.swe.git import apply_patch
from trieline.envs.swe.grading import exam_of
from trieline.envs.swe.history import Changes, changes_in, hide_history
from trieline.envs.swe.patches import checked_patch
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.workspaces import Workspaces

MOST_EDITED = 4 * 2**20
"""Bytes of a file that can be edited."""
QUIET = {"PAGER": "cat", "MANPAGER": "cat", "LESS": "-R", "PIP_PROGRESS_BAR": "off", "TQDM_DISABLE": "1"}
"""As mini-swe-agent sets them: nothing waits for a key, or draws."""
IMAGE_SHELL = {"BASH_ENV": "/root/.bashrc"}
"""Where the images of SWE-bench activate the environment of the repository."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    sandbox: Sandbox
    place: Place
    base: str
    """The commit of the base: see `history`."""
    environment: dict[str, str]
    """Of the repository's tests, so that the agent can run those that are there."""

    def close(self) -> None:
        try:
            self.sandbox.close()
        finally:
            self.place.close()


class AgentWorkspace:
    """Used by one thread at a time; any thread may close it."""

    def __init__(self, workspaces: Workspaces, places: Places, limits: SandboxLimits) -> None:
        self._workspaces = workspaces
        self._places = places
        self._limits = limits
        self._lock = threading.Lock()
        self._opened: _Open | None = None
        self.is_lost = False
        """Has the agent made it unusable? A program may take so much that the sandbox ends with it."""

    @property
    def is_open(self) -> bool:
        """Did the agent act in it?"""
        return self._opened is not None

    def open(self, task: RepositoryTask) -> None:
        """Open it, if it is not.

        Raises:
            SandboxError: a sandbox can't be had.
            TaskError: the task has no repository, or one with its tests in it.
        """
        if self._opened is not None:
            return
        with ExitStack() as undo:
            place = undo.enter_context(self._places.take())
            sandbox = self._workspaces.open(task, self._limits)
            undo.callback(sandbox.close)
            base = hide_history(sandbox)
            _check_has_no_tests(sandbox, task)
            exports = exam_of(task).script.exports
            self._opened = _Open(sandbox=sandbox, place=place, base=base, environment=exports)
            undo.pop_all()

    def run(
        self, line: str, seconds: float, environment: Mapping[str, str] = NO_MORE_VARIABLES
    ) -> ExecResult:
        """Run a line of shell; stderr goes where stdout goes. SandboxError if the sandbox fails.

        `environment` is before that of the workspace.
        """
        assert self._opened is not None, "the workspace was never opened"
        shell = IMAGE_SHELL if self._workspaces.backend == "docker" else {}
        result = self._sandbox.exec(
            ["bash", "-c", f"exec 2>&1\n{line}"],
            wall_seconds=seconds,
            environment={**QUIET, **self._opened.environment, **shell, **environment},
        )
        self.is_lost = result.over_disk or (result.oom and not self._is_alive())
        return result

    def _is_alive(self) -> bool:
        try:
            self._sandbox.exec(["true"])
        except SandboxError:
            return False
        return True

    def read(self, path: str) -> bytes:
        """A file. OSError if it can't be read."""
        return self._sandbox.read(path, max_bytes=MOST_EDITED)

    def write(self, path: str, data: bytes) -> None:
        """Replace a file, or make it. OSError if it can't be written."""
        self._sandbox.write(path, data)

    def changes(self, clean: Sandbox) -> Changes:
        """What the agent has changed, by a clean workspace of the task; see `history.changes_in`."""
        assert self._opened is not None, "the workspace was never opened"
        return changes_in(self._opened.sandbox, clean, self._opened.base)

    def fork(self) -> "AgentWorkspace":
        """An independent copy in the same state, or a lost one if the agent left what can't be copied.

        SandboxError if there is no place for it.
        """
        copy = AgentWorkspace(self._workspaces, self._places, self._limits)
        copy.is_lost = self.is_lost
        if self._opened is not None:
            place = self._places.take()
            try:
                sandbox = fork(self._opened.sandbox)
            except OSError:  # no permission, or sparse files of more than the disk: its own doing
                place.close()
                copy.is_lost = True
                return copy
            except BaseException:
                place.close()
                raise
            copy._opened = replace(self._opened, sandbox=sandbox, place=place)
        return copy

    def close(self) -> None:
        """End the sandbox. Idempotent; it can be opened again, for another episode."""
        with self._lock:
            opened, self._opened = self._opened, None
            self.is_lost = False
        if opened is not None:
            opened.close()

    @property
    def _sandbox(self) -> Sandbox:
        assert self._opened is not None, "the workspace was never opened"
        return self._opened.sandbox


def _check_has_no_tests(sandbox: Sandbox, task: RepositoryTask) -> None:
    try:
        test_patch = checked_patch(task.test_patch)
    except PatchError:
        return  # grading says what is wrong with it
    if not apply_patch(sandbox, test_patch, "--reverse", "--check"):
        msg = f"{task.instance_id}: expected a repository without the tests of its test patch, found them"
        raise TaskError(msg)
