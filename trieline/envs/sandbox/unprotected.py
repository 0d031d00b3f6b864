"""No sandbox at all, for those who ask for it by name: programs run as the user that runs Trieline.

Only mishaps are bounded: time, output, memory of a process, size of a file. A program can read and write all
that the user can, use the network, and leave processes behind by starting a new session.
"""

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import archives, bundle, temporary
from trieline.envs.sandbox.base import (
    NO_MORE_VARIABLES,
    ExecResult,
    SandboxLimits,
    SandboxSpec,
    check_command,
    check_size,
    refuse,
    wall_limit,
)
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget
from trieline.envs.sandbox.inside import files, programs

PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """In a new process: it ends when the thread that waits for it does, by SIGKILL too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class UnprotectedSandbox:
    """A temporary folder, and subprocesses in it."""

    def __init__(self, limits: SandboxLimits, spec: SandboxSpec | None = None) -> None:
        self.limits = limits
        self.spec = spec or SandboxSpec()
        on_host = "programs run on this host, as this user"
        refuse(
            self.spec,
            "none",
            image=on_host,
            folder=on_host,
            checkout=on_host,
            user=on_host,
            writable_root=on_host,
            workdir="the work folder is a temporary one",
        )
        self._folder: Path | None = None
        self._pid = os.getpid()

    @property
    def workdir(self) -> PurePosixPath:
        return PurePosixPath(self._running())

    def _running(self) -> Path:
        if self._folder is None:
            msg = "the unprotected sandbox is not running; start() it first"
            raise SandboxError(msg)
        return self._folder

    def start(self) -> None:
        if self._folder is None:
            self._pid = os.getpid()
            self._folder = temporary.make()
            self._clean_marks = files.marks(str(self._folder))
            close_at_exit(self)

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        wall_seconds: float | None = None,
        environment: Mapping[str, str] = NO_MORE_VARIABLES,
    ) -> ExecResult:
        limits = self.limits
        check_command(argv, stdin, environment, limits)
        workdir = str(self._running())
        path = f"{Path(sys.executable).parent}:{bundle.PATH}"
        order = programs.Order(
            argv=list(argv),
            stdin=stdin,
            workdir=workdir,
            environment={**bundle.environment(self.spec, path=path, home=workdir), **environment},
            wall_seconds=wall_limit(wall_seconds, limits),
            output_bytes=limits.output_bytes,
            tail_bytes=limits.tail_bytes,
            rlimits={
                "RLIMIT_DATA": limits.memory_bytes,
                "RLIMIT_FSIZE": limits.disk_bytes,
                "RLIMIT_NOFILE": bundle.OPEN_FILES,
                "RLIMIT_CORE": 0,
            },
        )
        outcome = programs.run(order, kill_all=_kill_session, before_exec=_end_with_parent)
        return ExecResult(
            exit_code=outcome.exit_code,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            timed_out=outcome.timed_out,
            oom=outcome.oom,
            stdout_left_out=outcome.stdout_left_out,
            stderr_left_out=outcome.stderr_left_out,
            seconds=outcome.seconds,
        )

    def read(self, path: str, *, max_bytes: int = 1024 * 1024) -> bytes:
        return files.read(str(self._running()), path, max_bytes)

    def write(self, path: str, data: bytes) -> None:
        check_size(path, data, self.limits)
        files.write(str(self._running()), path, data)

    def put(self, archive: IO[bytes], path: str = ".") -> None:
        with archives.checked(archive, max_bytes=self.limits.disk_bytes) as checked:
            files.unpack(str(self._running()), path, checked)

    def get(self, out: IO[bytes], path: str = ".", *, max_bytes: int) -> None:
        with archives.new_spool() as spool, files.packed(str(self._running()), path) as folder:
            folder.archive_size(max_bytes + archives.IN_MEMORY_BYTES, hard_links=False)
            folder.archive(spool, hard_links=False)
            spool.seek(0)
            archives.copy(spool, out, max_bytes=max_bytes)

    def snapshot(self) -> "CopiedFolder":
        copy = CopiedFolder(temporary.make(), self)
        try:
            shutil.copytree(self._running(), copy.folder, symlinks=True, dirs_exist_ok=True)
        except BaseException:
            copy.close()
            raise
        return copy

    def reset(self) -> None:
        self.start()
        if not self._clean():
            self.close()
            self.start()

    def _clean(self) -> bool:
        """Empty the folder, unless a program has put something else in its place."""
        folder = self._running()
        if folder.is_symlink():
            return False
        try:
            files.clean(str(folder), self._clean_marks)
            return files.marks(str(folder)) == self._clean_marks
        except OSError:
            return False

    def close(self) -> None:
        forget(self)
        folder, self._folder = self._folder, None
        if folder is not None and self._pid == os.getpid():
            temporary.remove(folder)


class CopiedFolder:
    """A copy of an unprotected sandbox's folder."""

    def __init__(self, folder: Path, origin: UnprotectedSandbox) -> None:
        self.folder = folder
        self._origin = origin
        close_at_exit(self)

    def start(self) -> UnprotectedSandbox:
        sandbox = UnprotectedSandbox(self._origin.limits, self._origin.spec)
        sandbox.start()
        try:
            shutil.copytree(self.folder, Path(sandbox.workdir), symlinks=True, dirs_exist_ok=True)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def close(self) -> None:
        forget(self)
        temporary.remove(self.folder)
