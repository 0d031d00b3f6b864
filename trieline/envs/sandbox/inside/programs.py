"""One untrusted program from start to end: bounded in time, output and resources, and nothing left of it."""

from __future__ import annotations

import math
import os
import resource
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, NamedTuple, Optional

READ_CHUNK = 64 * 1024
# As shells report them.
NOT_FOUND, NOT_EXECUTABLE = 127, 126
WATCH_SECONDS = 0.05
REAP_SECONDS = 5.0
# More than the largest pipe (1 MiB) can need, page by page.
MAX_READS_AFTER_END = 512


class OwnerGoneError(Exception):
    """The one who asked for the program closed the connection while it ran."""


# No dataclasses here: their module alone takes 12 ms to import, a sixth of a keeper's start.
class Order(NamedTuple):
    """What to run, and within which bounds."""

    argv: list[str]
    stdin: bytes
    workdir: str
    environment: dict[str, str]
    wall_seconds: float
    output_bytes: int
    tail_bytes: int
    """Of `output_bytes`, how many are for the end of a stream."""
    rlimits: dict[str, int]
    """As for `limit`, of the program alone. None of them: what starts it has them already."""


class Outcome(NamedTuple):
    """What came of it."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    oom: bool = False
    stdout_left_out: int = 0
    stderr_left_out: int = 0
    seconds: float = 0.0


class _Capture:
    """The first and the last bytes of a stream; what is between them is read and thrown away."""

    def __init__(self, pipe: IO[bytes], head_bytes: int, tail_bytes: int) -> None:
        self.pipe = pipe
        self.fd = pipe.fileno()
        self.head_bytes, self.tail_bytes = head_bytes, tail_bytes
        self.head, self.tail = bytearray(), bytearray()
        self.left_out = 0
        os.set_blocking(self.fd, False)

    @property
    def data(self) -> bytes:
        return bytes(self.head + self.tail)

    def read_some(self) -> bool:
        """False if nothing is there, for now or for good."""
        try:
            chunk = os.read(self.fd, READ_CHUNK)
        except BlockingIOError:
            return False
        room = self.head_bytes - len(self.head)
        self.head += chunk[:room]
        self.tail += chunk[room:]
        over = len(self.tail) - self.tail_bytes
        if over > 0:
            del self.tail[:over]
            self.left_out += over
        return bool(chunk)


class _Running:
    """A program and the three pipes to it."""

    def __init__(self, order: Order, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin = process.stdin
        self.unsent = memoryview(order.stdin)
        head, tail = order.output_bytes - order.tail_bytes, order.tail_bytes
        self.captures = [_Capture(pipe, head, tail) for pipe in (process.stdout, process.stderr)]
        os.set_blocking(self.stdin.fileno(), False)
        self.exited_fd = os.pidfd_open(process.pid)

    def attend(self, deadline: float, tick: float, owner_fd: int | None) -> bool:
        """Move bytes until the program ends (True), or `deadline` or `tick` seconds have come (False)."""
        until = min(deadline, time.monotonic() + tick)
        poll = select.poll()
        poll.register(self.exited_fd, select.POLLIN)
        if owner_fd is not None:
            poll.register(owner_fd, 0)  # hang-ups are always reported
        for capture in self.captures:
            poll.register(capture.fd, select.POLLIN)
        self._feed()
        if self.unsent:
            poll.register(self.stdin.fileno(), select.POLLOUT)
        while (left := until - time.monotonic()) > 0:
            ready = dict(poll.poll(math.ceil(left * 1000)))
            if owner_fd is not None and owner_fd in ready:
                raise OwnerGoneError
            for capture in self.captures:
                if capture.fd in ready and not capture.read_some() and ready[capture.fd] & select.POLLHUP:
                    poll.unregister(capture.fd)
            if not self.stdin.closed and self.stdin.fileno() in ready:
                fd = self.stdin.fileno()
                self._feed()
                if not self.unsent:
                    poll.unregister(fd)
            if self.exited_fd in ready:
                return True
        return False

    def _feed(self) -> None:
        """Write what the pipe takes; close it after the last byte, or when the program no longer listens."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.stdin.fileno(), self.unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.unsent = self.unsent[:0]
        self.stdin.close()

    def close(self) -> None:
        os.close(self.exited_fd)
        self.stdin.close()
        for capture in self.captures:
            capture.pipe.close()


def limit(rlimits: dict[str, int]) -> None:
    """Bound this process and what it starts, for good: names of `resource` constants, soft and hard bound."""
    for name, bound in rlimits.items():
        what = getattr(resource, name)
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            bound = min(bound, hard)
        resource.setrlimit(what, (bound, bound))


def _start(order: Order, before_exec: Optional[Callable[[], None]]) -> subprocess.Popen[bytes]:  # noqa: UP045  # `|` of types is new in Python 3.10
    def prepare() -> None:
        if before_exec is not None:
            before_exec()
        limit(order.rlimits)

    return subprocess.Popen(
        order.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=order.workdir,
        env=order.environment,
        start_new_session=True,
        # With nothing to do in the new process Python starts it by vfork, in a fifth of the time of a fork.
        preexec_fn=prepare if order.rlimits or before_exec is not None else None,
        bufsize=0,
    )


def run(
    order: Order,
    *,
    kill_all: Callable[[int], None],
    reap_all: Callable[[], None] = lambda: None,
    starting: Callable[[], AbstractContextManager[None]] = nullcontext,
    before_exec: Optional[Callable[[], None]] = None,  # noqa: UP045  # as above
    over_memory: Callable[[], bool] = lambda: False,
    owner_fd: int | None = None,
) -> Outcome:
    """Run a program to its end or its wall-clock limit, and end whatever it left running.

    `kill_all` gets the program's pid, which is also its session's, and kills all there may be; `reap_all` is
    called once the program itself is reaped. `starting` is around its start; `before_exec` runs in the new
    process, which costs a fork. `over_memory` is asked at every tick whether the programs hold too much. A
    hang-up of `owner_fd` raises OwnerGoneError.
    """
    started = time.monotonic()
    deadline = started + order.wall_seconds
    try:
        with starting():
            process = _start(order, before_exec)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        text = f"{order.argv[0]}: {error}\n".encode(errors="replace")[: order.output_bytes]
        return Outcome(exit_code=NOT_FOUND if missing else NOT_EXECUTABLE, stderr=text)
    running = _Running(order, process)
    try:
        oom = False
        while not (ended := running.attend(deadline, WATCH_SECONDS, owner_fd)):
            oom = over_memory()
            if oom or time.monotonic() >= deadline:
                break
        kill_all(process.pid)
        code = process.wait(timeout=REAP_SECONDS)
        reap_all()
        for capture in running.captures:
            for _ in range(MAX_READS_AFTER_END):
                if not capture.read_some():
                    break
        stdout, stderr = running.captures
        return Outcome(
            exit_code=128 - code if code < 0 else code,
            stdout=stdout.data,
            stderr=stderr.data,
            timed_out=not ended and not oom,
            oom=oom,
            stdout_left_out=stdout.left_out,
            stderr_left_out=stderr.left_out,
            seconds=time.monotonic() - started,
        )
    finally:
        running.close()
