"""A sandbox with a keeper in it: what Docker and bubblewrap share, which is all but how one is launched."""

import abc
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, Any, Literal, Self

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import archives, bundle
from trieline.envs.sandbox.base import (
    NO_MORE_VARIABLES,
    ExecResult,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
    check_command,
    check_size,
    wall_limit,
)
from trieline.envs.sandbox.channel import Channel, ChannelClosedError, ChannelTimeoutError
from trieline.envs.sandbox.inside import frames

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
FILE_SECONDS = 30.0
"""For one read, write, archive, restore or reset, all bounded by `disk_bytes`."""
FILE_BYTES_PER_SECOND = 8 * 1024 * 1024
"""And what may be a gigabyte gets more time."""
CHUNK = 1024 * 1024
KILL_SECONDS = 15.0
"""What the keeper may need beyond the wall-clock limit of a program, to end and reap all processes."""
ARCHIVE_OVERHEAD = 1024
"""Bytes a file takes in an archive beyond its content."""


class KeptSandbox(abc.ABC):
    """One sandbox. Used by one thread at a time; belongs to the process that started it, not to its forks."""

    def __init__(self, limits: SandboxLimits, spec: SandboxSpec | None = None) -> None:
        self.limits = limits
        self.spec = spec or SandboxSpec()
        self._channel: Channel | None = None
        self._pid = os.getpid()
        self._pristine = True
        """Nothing was run or written since the start or the last reset."""

    @property
    def workdir(self) -> PurePosixPath:
        return bundle.workdir(self.spec)

    @abc.abstractmethod
    def _launch(self, deadline: float) -> Channel:
        """Start the keeper. Leaves nothing behind when it raises, whatever it raises."""

    @abc.abstractmethod
    def _destroy(self) -> None:
        """End every process and free every resource of the last launch. Idempotent."""

    def _ended_at_bound(self) -> Literal["memory", "disk"] | None:
        """The keeper is gone: which of *its* bounds was the sandbox ended at, if at any?"""
        return None

    @abc.abstractmethod
    def _another(self) -> "KeptSandbox":
        """A new sandbox of the same kind, not started."""

    def __str__(self) -> str:
        return type(self).__name__

    def start(self) -> None:
        """Start, if it is not running."""
        if self._channel is not None:
            return
        deadline = time.monotonic() + START_SECONDS
        self._pid = os.getpid()
        try:
            self._channel = self._launch(deadline)
            hello, _ = self._receive(self._channel, deadline, max_body=0)
            if hello.get("uid") != bundle.user(self.spec):
                msg = f"{self}: expected user id {bundle.user(self.spec)}, got {hello.get('uid')}"
                raise SandboxError(msg)
        except ChannelClosedError as error:
            msg = f"{self}: the keeper ended while starting: {error}"
            self.close()
            raise SandboxError(msg) from error
        except ChannelTimeoutError as error:
            msg = f"{self}: waited {START_SECONDS:.0f} s for the keeper to start"
            self.close()
            raise SandboxError(msg) from error
        except BaseException:
            self.close()
            raise
        self._pristine = True

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        wall_seconds: float | None = None,
        environment: Mapping[str, str] = NO_MORE_VARIABLES,
    ) -> ExecResult:
        wall = wall_limit(wall_seconds, self.limits)
        check_command(argv, stdin, environment, self.limits)
        self._revive()
        self._pristine = False
        started = time.monotonic()
        request = {
            "op": "exec",
            "argv": list(argv),
            "wall_seconds": wall,
            "environment": dict(environment),
        }
        try:
            reply, output = self._ask(
                request, stdin, seconds=wall + KILL_SECONDS, max_body=2 * self.limits.output_bytes
            )
        except ChannelClosedError as error:
            return self._ended_by_program(time.monotonic() - started, error)
        split = int(reply["stdout_bytes"])
        stdout_left_out, stderr_left_out = map(int, reply["left_out"])
        return ExecResult(
            exit_code=int(reply["exit_code"]),
            stdout=output[:split],
            stderr=output[split:],
            timed_out=bool(reply["timed_out"]),
            oom=bool(reply["oom"]),
            stdout_left_out=stdout_left_out,
            stderr_left_out=stderr_left_out,
            seconds=float(reply["seconds"]),
        )

    def _ended_by_program(self, seconds: float, error: ChannelClosedError) -> ExecResult:
        """The program took the whole sandbox down. That is its result; the sandbox needs a reset."""
        bound, name = self._ended_at_bound(), str(self)
        self.close()
        if bound is None:
            msg = f"{name}: the keeper ended while a program ran: {error}"
            raise SandboxError(msg) from error
        ended = ExecResult(exit_code=137, stdout=b"", stderr=b"", seconds=seconds)
        return replace(ended, oom=bound == "memory", over_disk=bound == "disk")

    def read(self, path: str, *, max_bytes: int = 1024 * 1024) -> bytes:
        request = {"op": "read", "path": path, "max_bytes": max_bytes}
        return self._ask_for_files(request, max_body=max_bytes, path=path)

    def write(self, path: str, data: bytes) -> None:
        check_size(path, data, self.limits)
        self._revive()
        self._pristine = False
        self._ask_for_files({"op": "write", "path": path}, data, path=path)

    def put(self, archive: IO[bytes], path: str = ".") -> None:
        with archives.checked(archive, max_bytes=self.limits.disk_bytes) as checked:
            self._revive()
            self._pristine = False
            self._ask_for_files({"op": "put", "path": path}, checked, path=path)

    def get(self, out: IO[bytes], path: str = ".", *, max_bytes: int) -> None:
        most = min(max_bytes + ARCHIVE_OVERHEAD * archives.MAX_MEMBERS, frames.MAX_BODY)
        request = {"op": "get", "path": path, "max_bytes": most}
        with archives.new_spool() as spool:
            self._ask_for_files(request, out=spool, max_body=most, path=path)
            spool.seek(0)
            archives.copy(spool, out, max_bytes=max_bytes)

    def snapshot(self) -> Snapshot:
        """What programs wrote as an archive, bounded by `disk_bytes`: a tmpfs is in no image."""
        most = self.limits.disk_bytes + ARCHIVE_OVERHEAD * bundle.max_files(self.limits)
        most = min(most, frames.MAX_BODY)
        archive = archives.new_spool()
        try:
            self._ask_for_files({"op": "archive", "max_bytes": most}, out=archive, max_body=most)
        except BaseException:
            archive.close()
            raise
        return ArchiveSnapshot(self, archive)

    def restore(self, archive: IO[bytes]) -> None:
        """Unpack what `snapshot` took. Only into a sandbox in which nothing ran."""
        self._pristine = False
        self._ask_for_files({"op": "restore"}, archive)

    def reset(self) -> None:
        """In place if that leaves it verifiably clean, else by a new sandbox in its place."""
        if self._channel is not None and not self._pristine and not self.spec.is_workspace:
            try:
                reply, _ = self._ask({"op": "reset"}, seconds=FILE_SECONDS)
                self._pristine = bool(reply.get("clean"))
                if not self._pristine:
                    logger.warning("%s: replaced, for a reset left %s", self, reply)
            except (SandboxError, ChannelClosedError) as error:
                logger.warning(
                    "%s: replaced, for it could not be reset: %s", self, str(error) or "its keeper ended"
                )
        if self._channel is None or not self._pristine or self._channel.hung_up():
            self.close()
            self.start()

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if self._pid == os.getpid():  # a fork has only copies of the connections
            self._destroy()
            if channel is not None and not channel.hung_up(KILL_SECONDS):
                logger.warning("%s: its keeper was still there %.0f s after the end", self, KILL_SECONDS)
        if channel is not None:
            channel.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _revive(self) -> None:
        """A sandbox that died while idle and clean is simply started again."""
        if self._pristine and self._channel is not None and self._channel.hung_up():
            logger.warning("%s: had ended while idle, started again", self)
            self.close()
            self.start()

    def _ask_for_files(
        self,
        request: dict[str, Any],
        body: bytes | IO[bytes] = b"",
        *,
        out: IO[bytes] | None = None,
        max_body: int = 0,
        path: str = "",
    ) -> bytes:
        seconds = FILE_SECONDS + (_size(body) + max_body) / FILE_BYTES_PER_SECOND
        try:
            reply, data = self._ask(request, body, seconds=seconds, max_body=max_body, out=out)
        except ChannelClosedError as error:
            msg = f"{self}: the keeper ended during {request['op']!r}: {error}"
            self.close()
            raise SandboxError(msg) from error
        if "errno" in reply:
            raise OSError(int(reply["errno"]), str(reply["message"]), path)
        return data

    def _ask(
        self,
        request: dict[str, Any],
        body: bytes | IO[bytes] = b"",
        *,
        seconds: float,
        max_body: int = 0,
        out: IO[bytes] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """The reply and its body, which goes to `out` if there is one."""
        if self._channel is None:
            msg = f"{self}: is not running; reset() or start() it first"
            raise SandboxError(msg)
        deadline = time.monotonic() + seconds
        frame = frames.pack(request, _size(body))
        try:
            self._channel.send(frame, deadline)
            for part in _parts(body):
                self._channel.send(part, deadline)
            reply, data = self._receive(self._channel, deadline, max_body, out)
        except ChannelTimeoutError as error:
            msg = f"{self}: waited {seconds:.1f} s for the keeper to answer {request['op']!r}; ended it"
            self.close()
            raise SandboxError(msg) from error
        except ChannelClosedError:
            raise
        except BaseException:
            self.close()  # the reply to this request must never be taken for that to the next
            raise
        if "failed" in reply:
            msg = f"{self}: {reply['failed']}"
            self.close()
            raise SandboxError(msg)
        return reply, data

    def _receive(
        self, channel: Channel, deadline: float, max_body: int, out: IO[bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        try:
            header, length = frames.unpack(lambda count: channel.receive(count, deadline), max_body)
        except frames.FrameError as error:
            msg = f"{self}: {error}"
            raise SandboxError(msg) from error
        if out is None:
            return header, channel.receive(length, deadline)
        while length:
            part = channel.receive(min(length, CHUNK), deadline)
            out.write(part)
            length -= len(part)
        return header, b""


def _size(body: bytes | IO[bytes]) -> int:
    if isinstance(body, bytes):
        return len(body)
    size = body.seek(0, os.SEEK_END)
    body.seek(0)
    return size


def _parts(body: bytes | IO[bytes]) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    while part := body.read(CHUNK):
        yield part


class ArchiveSnapshot:
    """The files of a sandbox at one moment, as an opaque archive that is only ever unpacked in a sandbox."""

    def __init__(self, origin: KeptSandbox, archive: IO[bytes]) -> None:
        self._new_sandbox = origin._another
        self._archive = archive
        self._reading = threading.Lock()

    def start(self) -> KeptSandbox:
        sandbox = self._new_sandbox()
        sandbox.start()
        try:
            with self._reading:
                if self._archive.closed:
                    msg = "expected an open snapshot, got one that was closed"
                    raise SandboxError(msg)
                sandbox.restore(self._archive)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def close(self) -> None:
        self._archive.close()
