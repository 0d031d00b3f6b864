"""Warm sandboxes for many tasks: bounded in number, and never handed on unclean."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox.backends import Backend, open_sandbox
from trieline.envs.sandbox.base import Sandbox, SandboxLimits
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget

logger = logging.getLogger(__name__)

ACQUIRE_SECONDS = 60.0


def default_size() -> int:
    """Programs are bound by the CPU: more sandboxes than cores would only take memory."""
    return max(2, len(os.sched_getaffinity(0)))


class SandboxPool:
    """At most `size` sandboxes, started when first needed and kept. Any thread may use it."""

    def __init__(
        self,
        backend: Backend = "auto",
        limits: SandboxLimits | None = None,
        *,
        size: int | None = None,
        open_one: Callable[[Backend, SandboxLimits], Sandbox] = open_sandbox,
    ) -> None:
        self.backend: Backend = backend
        self.limits = limits or SandboxLimits()
        self.size = size or default_size()
        self._open_one = open_one
        self._idle: list[Sandbox] = []
        self._lent: dict[int, tuple[Sandbox, float]] = {}
        """By identity: the sandbox and when it was lent (time.monotonic())."""
        self._starting = 0
        self._closed = False
        self._changed = threading.Condition()
        close_at_exit(self)

    def acquire(self, timeout_s: float = ACQUIRE_SECONDS) -> Sandbox:
        """A clean, running sandbox. SandboxError after `timeout_s`, or if a new one can't be started."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._check_open()
                if self._idle:
                    return self._lend(self._idle.pop())
                if len(self._lent) + self._starting < self.size:
                    self._starting += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise SandboxError(self._in_use(timeout_s))
        return self._start_one()

    def _start_one(self) -> Sandbox:
        sandbox = None
        try:
            sandbox = self._open_one(self.backend, self.limits)
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
                if sandbox is not None and not self._closed:
                    self._lend(sandbox)
        if self._closed:
            sandbox.close()
            self._check_open()
        return sandbox

    def _lend(self, sandbox: Sandbox) -> Sandbox:
        self._lent[id(sandbox)] = (sandbox, time.monotonic())
        return sandbox

    def _in_use(self, timeout_s: float) -> str:
        longest = max((time.monotonic() - since for _, since in self._lent.values()), default=0.0)
        return (
            f"waited {timeout_s:.1f} s for one of {self.size} {self.backend} sandboxes:"
            f" {len(self._lent)} are in use, one of them for {longest:.1f} s, {self._starting} are starting"
        )

    def _check_open(self) -> None:
        if self._closed:
            msg = f"the pool of {self.backend} sandboxes is closed"
            raise SandboxError(msg)

    def release(self, sandbox: Sandbox) -> None:
        """Take back what `acquire` gave. It is reset first, and dropped if that fails."""
        if id(sandbox) not in self._lent:
            msg = "expected a sandbox that this pool has lent, got another one"
            raise ValueError(msg)
        clean = False
        try:
            if not self._closed:
                sandbox.reset()
                clean = True
        except SandboxError as error:
            logger.warning("a sandbox of the pool could not be reset and is dropped: %s", error)
        finally:
            with self._changed:
                self._lent.pop(id(sandbox), None)
                keep = clean and not self._closed
                if keep:
                    self._idle.append(sandbox)
                self._changed.notify()
            if not keep:
                sandbox.close()

    @contextmanager
    def lease(self, timeout_s: float = ACQUIRE_SECONDS) -> Iterator[Sandbox]:
        """`acquire` and, whatever happens, `release`."""
        sandbox = self.acquire(timeout_s)
        try:
            yield sandbox
        finally:
            self.release(sandbox)

    def warm(self, count: int | None = None) -> None:
        """Start sandboxes ahead of need, up to `count` idle or lent ones (default: all). Waits for them."""
        wanted = self.size if count is None else min(count, self.size)
        lent: list[Sandbox] = []
        try:
            while len(self._lent) + self._starting + len(self._idle) < wanted:
                lent.append(self.acquire())
        finally:
            for sandbox in lent:
                self.release(sandbox)

    def close(self) -> None:
        """Close all sandboxes, lent ones too. Idempotent."""
        forget(self)
        with self._changed:
            self._closed = True
            sandboxes = self._idle + [sandbox for sandbox, _ in self._lent.values()]
            self._idle = []
            self._changed.notify_all()
        for sandbox in sandboxes:
            sandbox.close()


_shared_lock = threading.Lock()
_shared: dict[tuple[int, Backend, SandboxLimits], SandboxPool] = {}


def shared_pool(
    backend: Backend = "auto", limits: SandboxLimits | None = None, *, size: int | None = None
) -> SandboxPool:
    """The pool of this process for this backend and these limits; `size` counts when it is first asked for.

    A fork makes its own: sandboxes belong to the process that started them.
    """
    key = (os.getpid(), backend, limits or SandboxLimits())
    with _shared_lock:
        pool = _shared.get(key)
        if pool is None or pool._closed:
            pool = _shared[key] = SandboxPool(backend, key[2], size=size)
        return pool
