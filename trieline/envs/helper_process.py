"""Processes that run a grader, bounded in number, memory and time, and killed when late.

They are started by `subprocess` and not by `multiprocessing`, which refuses children to the daemonic
workers of a vector environment. One line of JSON goes in, one comes out; their side is `helper_program`.
"""

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar, Self

from trieline.envs.errors import GraderError

START_SECONDS = 60.0
"""For importing what a grader needs on a busy machine."""
END_SECONDS = 5.0
"""For a worker whose pipe is closed to be gone."""
WALL_FACTOR = 10
"""Wall-clock seconds to wait for a second of processor time."""
MAX_REPLY_BYTES = 2**20
_READ_BYTES = 65_536


class NoReply(Exception):  # no error
    """An answer on which a helper stumbled or hung: `timeout` or `error`."""


class HelperProcess:
    """One worker, the program of a module. `ask` may be called by one thread at a time."""

    def __init__(self, module: str, *, cpu_seconds: float) -> None:
        self.module = module
        self.cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: object) -> str:
        """The line that answers it. Raises NoReply, GraderError if no worker can be had."""
        process = self._running()
        try:
            line = self._ask(process, json.dumps(request), self.cpu_seconds * WALL_FACTOR)
        except GraderError:
            # It died of the answer: too much processor time, or too much memory. Or it says too much.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=END_SECONDS)
            reason = "timeout" if process.returncode == -signal.SIGPROF else "error"
            self.close()
            raise NoReply(reason) from None
        if line is None:
            self.close()
            reason = "timeout"
            raise NoReply(reason)
        return line

    def close(self) -> None:
        """Kill the worker, if there is one. The next `ask` starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        # -P: no module is taken from the working folder in place of an installed one.
        command = [sys.executable, "-P", "-m", self.module, str(self.cpu_seconds)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            ready = self._ask(self._process, None, START_SECONDS)
        except (OSError, GraderError) as error:
            self.close()
            msg = f"could not start a grading process: {error}"
            raise GraderError(msg) from error
        if ready != "ready":
            self.close()
            msg = f"expected a grading process to say 'ready' within {START_SECONDS:.0f} s, got {ready!r}"
            raise GraderError(msg)
        return self._process

    def _ask(self, process: "subprocess.Popen[bytes]", line: str | None, timeout_s: float) -> str | None:
        """The next line of the worker, None if it does not come in time. Raises GraderError if it is gone."""
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            if line is not None:
                stdin.write(line.encode() + b"\n")
                stdin.flush()
            received = _read_line(stdout.fileno(), time.monotonic() + timeout_s)
        except OSError as error:
            msg = f"the grading process is gone: {error}"
            raise GraderError(msg) from error
        return received


def _read_line(fd: int, deadline: float) -> str | None:
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            part = os.read(fd, _READ_BYTES)
            data += part
            if not part or len(data) > MAX_REPLY_BYTES or b"\n" in data[:-1]:
                msg = f"expected one line of at most {MAX_REPLY_BYTES:,} bytes from the grading process"
                raise GraderError(msg)
    return data.decode(errors="replace").strip()


class HelperPool:
    """At most `size` workers of a module, started when they are needed. Threads wait for a free one.

    `shared` is made once for a class, so a kind of helper is a class of its own.
    """

    module: ClassVar[str]
    _shared: ClassVar[dict[type["HelperPool"], "HelperPool"]] = {}
    _shared_lock: ClassVar[Any] = threading.Lock()

    def __init__(self, *, size: int = 2, cpu_seconds: float = 2.0) -> None:
        self._limit = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[HelperProcess] = []
        self.cpu_seconds = cpu_seconds
        self.size = size

    @classmethod
    def shared(cls) -> Self:
        """The one of this process."""
        with cls._shared_lock:
            found = cls._shared.get(cls)
            if found is None:
                found = cls._shared[cls] = cls()
                atexit.register(found.close)
            assert isinstance(found, cls)
            return found

    @staticmethod
    def forget_shared() -> None:
        """After a fork: the workers are the parent's, and so are its locks."""
        HelperPool._shared, HelperPool._shared_lock = {}, threading.Lock()

    def ask(self, request: object) -> str:
        """See HelperProcess.ask."""
        # Everyone ahead in the queue takes at most a start and a time-out.
        patience = START_SECONDS + 100 * self.cpu_seconds
        if not self._limit.acquire(timeout=patience):
            msg = f"waited {patience:.0f} s for one of {self.size} grading processes"
            raise GraderError(msg)
        try:
            with self._lock:
                worker = (
                    self._idle.pop()
                    if self._idle
                    else HelperProcess(self.module, cpu_seconds=self.cpu_seconds)
                )
            try:
                return worker.ask(request)
            finally:
                with self._lock:
                    self._idle.append(worker)
        finally:
            self._limit.release()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


os.register_at_fork(after_in_child=HelperPool.forget_shared)
