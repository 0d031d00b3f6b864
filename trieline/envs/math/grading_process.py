"""Processes that run math-verify, bounded in number, memory and time, and killed when late.

They are started by `subprocess` and not by `multiprocessing`, which refuses children to the daemonic
workers of a vector environment. One line of JSON goes in, one comes out.
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
"""For importing sympy on a busy machine."""
WALL_FACTOR = 10
"""Wall-clock seconds to wait for a second of processor time."""
MAX_REPLY_BYTES = 4096


class GradingProcess:
    """One worker. `verify` may be called by one thread at a time."""

    def __init__(self, *, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def verify(self, gold: str, answer: str) -> str:
        """`equal`, `different`, `error` or `timeout`. Raises GraderError if no worker can be had."""
        process = self._running()
        try:
            line = self._ask(process, json.dumps([gold, answer]), self.cpu_seconds * WALL_FACTOR)
        except GraderError:
            # It died of the answer: too much processor time, or too much memory.
            process.wait(timeout=START_SECONDS)
            self.close()
            return "timeout" if process.returncode == -signal.SIGPROF else "error"
        if line is None:
            self.close()
            return "timeout"
        return line if line in ("equal", "different") else "error"

    def close(self) -> None:
        """Kill the worker, if there is one. The next `verify` starts another."""
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
        command = [sys.executable, "-P", "-m", "trieline.envs.math.grading_worker", str(self.cpu_seconds)]
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
            part = os.read(fd, MAX_REPLY_BYTES)
            if not part or len(data) > MAX_REPLY_BYTES:
                msg = "the grading process ended"
                raise GraderError(msg)
            data += part
    return data.decode(errors="replace").strip()


class GradingPool:
    """At most `size` workers, started when they are needed. Threads wait for a free one."""

    _shared: ClassVar["GradingPool | None"] = None
    _shared_lock: ClassVar[Any] = threading.Lock()

    def __init__(self, *, size: int = 2, cpu_seconds: float = 2.0) -> None:
        self._limit = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[GradingProcess] = []
        self.cpu_seconds = cpu_seconds
        self.size = size

    @classmethod
    def shared(cls) -> "GradingPool":
        """The one of this process."""
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = cls()
                atexit.register(cls._shared.close)
            return cls._shared

    @classmethod
    def forget_shared(cls) -> None:
        """After a fork: the workers are the parent's, and so are its locks."""
        cls._shared, cls._shared_lock = None, threading.Lock()

    def verify(self, gold: str, answer: str) -> str:
        """See GradingProcess.verify."""
        # Everyone ahead in the queue takes at most a start and a time-out.
        patience = START_SECONDS + 100 * self.cpu_seconds
        if not self._limit.acquire(timeout=patience):
            msg = f"waited {patience:.0f} s for one of {self.size} grading processes"
            raise GraderError(msg)
        try:
            with self._lock:
                worker = self._idle.pop() if self._idle else GradingProcess(cpu_seconds=self.cpu_seconds)
            try:
                return worker.verify(gold, answer)
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


os.register_at_fork(after_in_child=GradingPool.forget_shared)
