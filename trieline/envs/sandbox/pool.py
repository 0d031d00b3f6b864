"""Warm sandboxes for many tasks: bounded in number, and never handed on unclean."""

import logging
import os
import threading
import time
from collections.abc import Callable

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox.backends import Backend, open_sandbox
from trieline.envs.sandbox.base import Sandbox, SandboxLimits, SandboxSpec
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget
from trieline.envs.sandbox.first_come import Line

logger = logging.getLogger(__name__)

ACQUIRE_SECONDS = 60.0


def default_size() -> int:
    """Programs are bound by the CPU: more sandboxes than cores would only take memory."""
    return max(2, len(os.sched_getaffinity(0)))


class Loan:
    """One sandbox of a pool, the same for an exec or a whole episode. Ends once, by whatever comes first.

    As a context manager it gives the sandbox.
    """

    def __init__(self, pool: "SandboxPool", sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._pool = pool
        self._over = False

    def close(self) -> None:
        """The episode is over: the sandbox is reset and lent to the next one. Idempotent."""
        self._end(keep=True)

    def discard(self) -> None:
        """The episode is over and the sandbox is not to be trusted: it is thrown away. Idempotent."""
        self._end(keep=False)

    def _end(self, *, keep: bool) -> None:
        over, self._over = self._over, True
        if not over:
            self._pool.release(self.sandbox, keep=keep)

    def __enter__(self) -> Sandbox:
        return self.sandbox

    def __exit__(self, *_: object) -> None:
        self.close()


class SandboxPool:
    """At most `size` sandboxes of one spec, started when first needed and kept. Any thread may use it.

    Those who wait are served in the order in which they came.
    """

    def __init__(
        self,
        backend: Backend = "auto",
        limits: SandboxLimits | None = None,
        spec: SandboxSpec | None = None,
        *,
        size: int | None = None,
        open_one: Callable[[Backend, SandboxLimits, SandboxSpec], Sandbox] = open_sandbox,
    ) -> None:
        self.backend: Backend = backend
        self.limits = limits or SandboxLimits()
        self.spec = spec or SandboxSpec()
        self.size = size or default_size()
        self._open_one = open_one
        self._idle: list[Sandbox] = []
        self._lent: dict[int, tuple[Sandbox, float]] = {}
        """By identity: the sandbox and when it was lent (time.monotonic())."""
        self._starting = 0
        self._closed = False
        self._renewals: set[threading.Thread] = set()
        self._line = Line()
        """Guards the five above."""
        close_at_exit(self)

    def acquire(self, timeout_s: float = ACQUIRE_SECONDS) -> Sandbox:
        """A clean, running sandbox. SandboxError after `timeout_s`, or if a new one can't be started."""
        with self._line.turn(self._can_serve, timeout_s) as came:
            self._check_open()
            if not came:
                raise SandboxError(self._in_use(timeout_s))
            if self._idle:
                return self._lend(self._idle.pop())
            self._starting += 1
        return self._start_one()

    def _can_serve(self) -> bool:
        return self._closed or bool(self._idle) or len(self._lent) + self._starting < self.size

    def _start_one(self) -> Sandbox:
        sandbox = None
        try:
            sandbox = self._open_one(self.backend, self.limits, self.spec)
        finally:
            with self._line.change():
                self._starting -= 1
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

    def release(self, sandbox: Sandbox, *, keep: bool = True) -> None:
        """Take back what `acquire` gave. It is reset first, and dropped if that fails or `keep` is False."""
        if id(sandbox) not in self._lent:
            msg = "expected a sandbox that this pool has lent, got another one"
            raise ValueError(msg)
        if keep and self.spec.is_workspace:
            # It is not wiped but replaced, for which nobody need wait but who comes next.
            renewal = threading.Thread(target=self._renew, args=(sandbox, keep), name="sandbox-renewal")
            with self._line.change():
                self._renewals.add(renewal)
            renewal.start()
        else:
            self._renew(sandbox, keep)

    def _renew(self, sandbox: Sandbox, keep: bool) -> None:
        clean = False
        try:
            if keep and not self._closed:
                sandbox.reset()
                clean = True
        except SandboxError as error:
            logger.warning("a sandbox of the pool could not be reset and is dropped: %s", error)
        finally:
            self._take_back(sandbox, clean=clean)

    def _take_back(self, sandbox: Sandbox, *, clean: bool) -> None:
        with self._line.change():
            self._renewals.discard(threading.current_thread())
            self._lent.pop(id(sandbox), None)
            keep = clean and not self._closed
            if keep:
                self._idle.append(sandbox)
        if not keep:
            sandbox.close()

    def lend(self, timeout_s: float = ACQUIRE_SECONDS) -> Loan:
        """A sandbox that its borrower keeps, for an exec or an episode, until it closes the loan."""
        return Loan(self, self.acquire(timeout_s))

    def warm(self, count: int | None = None) -> None:
        """Start sandboxes ahead of need, up to `count` idle or lent ones (default: all). Waits for them."""
        wanted = self.size if count is None else min(count, self.size)
        lent: list[Sandbox] = []
        try:
            while len(self._lent) + self._starting + len(self._idle) < wanted:
                lent.append(self.acquire())
        finally:
            for sandbox in lent:
                self._take_back(sandbox, clean=True)

    def close(self) -> None:
        """Close all sandboxes, lent ones too. Idempotent."""
        forget(self)
        with self._line.change():
            self._closed = True
            renewals = list(self._renewals)
        # What is just being made anew has nobody else's hand in it till it is there.
        for renewal in renewals:
            renewal.join()
        with self._line.change():
            sandboxes = self._idle + [sandbox for sandbox, _ in self._lent.values()]
            self._idle = []
        for sandbox in sandboxes:
            sandbox.close()


_shared_lock = threading.Lock()
_shared: dict[tuple[int, Backend, SandboxLimits, SandboxSpec], SandboxPool] = {}


def shared_pool(
    backend: Backend = "auto",
    limits: SandboxLimits | None = None,
    spec: SandboxSpec | None = None,
    *,
    size: int | None = None,
) -> SandboxPool:
    """The pool of this process for this backend, limits and spec; `size` counts when it is first asked for.

    A fork makes its own: sandboxes belong to the process that started them.
    """
    key = (os.getpid(), backend, limits or SandboxLimits(), spec or SandboxSpec())
    with _shared_lock:
        pool = _shared.get(key)
        if pool is None or pool._closed:
            pool = _shared[key] = SandboxPool(*key[1:], size=size)
        return pool
