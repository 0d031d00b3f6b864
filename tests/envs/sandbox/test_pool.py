"""The pool: bounded, clean, thread-safe, and a fork's own."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO

import pytest

from tests.envs.sandbox.conftest import LIMITS, SEALED, as_parameters, need
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import (
    ExecResult,
    Sandbox,
    SandboxLimits,
    SandboxPool,
    SandboxSpec,
    Snapshot,
    shared_pool,
)
from trieline.envs.sandbox.backends import Backend


class FakeSandbox:
    """Counts what is done to it."""

    made: list["FakeSandbox"]

    def __init__(self) -> None:
        self.resets = 0
        self.closed = False
        self.broken = False

    workdir = PurePosixPath("/work")

    def start(self) -> None: ...

    def exec(self, argv: object, **_: object) -> ExecResult:
        return ExecResult(exit_code=0, stdout=b"", stderr=b"")

    def read(self, path: str, *, max_bytes: int = 0) -> bytes:
        raise FileNotFoundError

    def write(self, path: str, data: bytes) -> None: ...

    def put(self, archive: IO[bytes], path: str = ".") -> None: ...

    def get(self, out: IO[bytes], path: str = ".", *, max_bytes: int) -> None: ...

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    def reset(self) -> None:
        if self.broken:
            raise SandboxError("broken for good")
        self.resets += 1

    def close(self) -> None:
        self.closed = True


class Maker:
    """Opens fakes, or fails as told."""

    def __init__(self) -> None:
        self.made: list[FakeSandbox] = []
        self.specs: list[SandboxSpec] = []
        self.failure: Exception | None = None

    def __call__(self, backend: Backend, limits: SandboxLimits, spec: SandboxSpec) -> Sandbox:
        if self.failure:
            raise self.failure
        self.made.append(FakeSandbox())
        self.specs.append(spec)
        return self.made[-1]


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def pool(maker: Maker) -> SandboxPool:
    return SandboxPool("none", LIMITS, size=2, open_one=maker)


def test_a_released_sandbox_is_reset_and_lent_again(pool: SandboxPool, maker: Maker) -> None:
    first = pool.acquire()
    pool.release(first)
    assert maker.made[0].resets == 1
    assert pool.acquire() is first
    assert len(maker.made) == 1


def test_one_that_can_not_be_reset_is_closed_and_replaced(pool: SandboxPool, maker: Maker) -> None:
    first = pool.acquire()
    maker.made[0].broken = True
    pool.release(first)
    assert maker.made[0].closed
    assert pool.acquire() is not first


def test_acquire_waits_and_then_says_for_what(pool: SandboxPool) -> None:
    pool.acquire()
    pool.acquire()
    with pytest.raises(SandboxError, match=r"waited 0.1 s for one of 2 none sandboxes: 2 are in use"):
        pool.acquire(timeout_s=0.1)


def test_a_waiting_thread_gets_what_another_releases(pool: SandboxPool) -> None:
    held = [pool.acquire(), pool.acquire()]
    got: list[Sandbox] = []
    thread = threading.Thread(target=lambda: got.append(pool.acquire(timeout_s=30)))
    thread.start()
    pool.release(held[0])
    thread.join(30)
    assert got == [held[0]]


def test_a_failed_start_frees_its_place(pool: SandboxPool, maker: Maker) -> None:
    maker.failure = SandboxError("no engine")
    for _ in range(3):
        with pytest.raises(SandboxError, match="no engine"):
            pool.acquire(timeout_s=1)
    maker.failure = None
    assert pool.acquire() is not pool.acquire()


def test_an_exception_in_a_lease_gives_the_sandbox_back(pool: SandboxPool, maker: Maker) -> None:
    with pytest.raises(ZeroDivisionError), pool.lend():
        _ = 1 / 0
    assert maker.made[0].resets == 1


def test_only_what_was_lent_is_taken_back(pool: SandboxPool) -> None:
    sandbox = pool.acquire()
    pool.release(sandbox)
    for stranger in (sandbox, FakeSandbox()):
        with pytest.raises(ValueError, match="lent"):
            pool.release(stranger)


def test_close_ends_all_and_refuses_more(pool: SandboxPool, maker: Maker) -> None:
    pool.release(pool.acquire())
    lent = pool.acquire()
    pool.close()
    pool.close()
    assert all(sandbox.closed for sandbox in maker.made)
    pool.release(lent)
    with pytest.raises(SandboxError, match="closed"):
        pool.acquire()


def test_close_wakes_those_who_wait(pool: SandboxPool) -> None:
    pool.acquire()
    pool.acquire()
    errors: list[SandboxError] = []

    def wait() -> None:
        try:
            pool.acquire(timeout_s=60)
        except SandboxError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    pool.close()
    thread.join(30)
    assert "closed" in str(errors[0])


def test_warm_starts_them_ahead(pool: SandboxPool, maker: Maker) -> None:
    pool.warm()
    assert len(maker.made) == 2
    pool.warm()
    assert len(maker.made) == 2


def test_the_shared_pool_is_one_per_backend_and_limits() -> None:
    limits = SandboxLimits(wall_seconds=1.25)
    first = shared_pool("none", limits)
    assert shared_pool("none", limits) is first
    assert shared_pool("none", SandboxLimits(wall_seconds=2.25)) is not first
    first.close()
    assert shared_pool("none", limits) is not first


def test_a_fork_gets_its_own_shared_pool() -> None:
    limits = SandboxLimits(wall_seconds=1.5)
    parent = shared_pool("none", limits)
    child = os.fork()
    if child == 0:
        os._exit(0 if shared_pool("none", limits) is not parent else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("backend", as_parameters(SEALED))
def test_many_threads_share_real_sandboxes_and_find_them_clean(backend: Backend) -> None:
    need(backend)
    pool = SandboxPool(backend, LIMITS, size=2)
    found: list[str] = []

    def task(number: int) -> None:
        with pool.lend(timeout_s=120) as sandbox:
            found.append(said(sandbox, "import os; print(os.listdir('.'))"))
            run_python(sandbox, f"open('mine-{number}', 'w'); import os, time; os.fork() or time.sleep(60)")

    threads = [threading.Thread(target=task, args=(number,)) for number in range(12)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == ["[]"] * 12
    finally:
        pool.close()


@pytest.mark.parametrize("backend", as_parameters(SEALED))
def test_a_pool_in_a_forked_worker_works_and_ends_with_it(backend: Backend) -> None:
    need(backend)
    limits = SandboxLimits(wall_seconds=3.5)
    with shared_pool(backend, limits).lend() as sandbox:
        assert said(sandbox, "print(1)") == "1"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with shared_pool(backend, limits).lend() as own:
                    code = 0 if said(own, "print(2)") == "2" and own is not sandbox else 2
                shared_pool(backend, limits).close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert said(sandbox, "print(3)") == "3"
    started = time.monotonic()
    shared_pool(backend, limits).close()
    assert time.monotonic() - started < 60


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come to that within 30 s"
        time.sleep(0.001)


def test_those_who_wait_are_served_in_their_order_and_before_those_who_come_later(maker: Maker) -> None:
    pool = SandboxPool("none", LIMITS, size=1, open_one=maker)
    sandbox = pool.acquire()
    served: list[int] = []

    def wait(number: int) -> None:
        with pool.lend(timeout_s=60):
            served.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        _wait_until(lambda number=number: len(pool._line._waiting) > number)  # type: ignore[misc]
    pool.release(sandbox)
    with pytest.raises(SandboxError, match="waited"):
        pool.acquire(timeout_s=0)
    for thread in threads:
        thread.join(30)
    assert served == list(range(5))
    assert pool.acquire(timeout_s=0) is sandbox


def test_one_who_gives_up_waiting_does_not_hold_up_the_next(pool: SandboxPool, maker: Maker) -> None:
    held = [pool.acquire(), pool.acquire()]
    with pytest.raises(SandboxError, match="waited"):
        pool.acquire(timeout_s=0.01)
    pool.release(held[0])
    assert pool.acquire(timeout_s=0) is held[0]


def test_an_episode_keeps_its_sandbox_and_hands_it_back_clean(pool: SandboxPool, maker: Maker) -> None:
    with pool.lend() as sandbox:
        for _ in range(3):
            sandbox.exec(["true"])
        assert maker.made[0].resets == 0
    assert maker.made[0].resets == 1
    loan = pool.lend()
    assert loan.sandbox is sandbox
    for _ in range(2):
        loan.close()
    loan.discard()
    assert (maker.made[0].resets, maker.made[0].closed) == (2, False)


def test_a_discarded_sandbox_is_not_lent_again(pool: SandboxPool, maker: Maker) -> None:
    loan = pool.lend()
    loan.discard()
    loan.close()
    assert (maker.made[0].resets, maker.made[0].closed) == (0, True)
    assert pool.acquire() is not loan.sandbox


def test_a_workspace_is_renewed_while_nobody_waits(maker: Maker) -> None:
    pool = SandboxPool("docker", LIMITS, SandboxSpec(writable_root=True), size=1, open_one=maker)
    pool.warm()
    first = pool.acquire()
    assert [first] == maker.made  # what was only warmed is as good as new
    renewing, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        renewing.set()
        assert go_on.wait(30)

    maker.made[0].reset = slowly  # type: ignore[method-assign]
    pool.release(first)
    assert renewing.wait(30)
    with pytest.raises(SandboxError, match=r"waited 0\.1 s"):
        pool.acquire(timeout_s=0.1)  # there are never more than `size`
    go_on.set()
    assert pool.acquire(timeout_s=30) is first


def test_a_pool_that_is_closed_waits_for_what_is_being_renewed_and_keeps_nothing(maker: Maker) -> None:
    pool = SandboxPool("docker", LIMITS, SandboxSpec(writable_root=True), size=1, open_one=maker)
    go_on = threading.Event()
    sandbox = pool.acquire()
    made = maker.made[0]
    made.reset = lambda: go_on.wait(30)  # type: ignore[assignment,method-assign]
    pool.release(sandbox)
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(0.2)
    # Nobody closes under its hands what a renewal is about to start.
    assert closing.is_alive()
    assert not made.closed
    go_on.set()
    closing.join(30)
    assert made.closed


def test_a_pool_is_of_one_spec(maker: Maker) -> None:
    spec = SandboxSpec(environment=(("A", "1"),))
    SandboxPool("none", LIMITS, spec, open_one=maker).acquire()
    assert maker.specs == [spec]
    limits = SandboxLimits(wall_seconds=1.75)
    pool = shared_pool("none", limits, spec)
    assert pool is shared_pool("none", limits, SandboxSpec(environment=(("A", "1"),)))
    assert pool is not shared_pool("none", limits)
    with pool.lend() as sandbox:
        assert said(sandbox, "import os; print(os.environ['A'])") == "1"
    pool.close()
