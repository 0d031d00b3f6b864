"""A bounded set of threads for the blocking calls into environments, each call with a deadline.

A call that hangs can't be ended, only left behind: its thread is a daemon (it never holds up the exit), its
place is taken by a new one, and it is counted. Too many of them are an error: they
keep memory and cores.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from trieline.actors.errors import ActorError, EnvFailure, StuckEnvironmentsError
from trieline.envs.errors import EnvError

log = logging.getLogger(__name__)

T = TypeVar("T")


class EnvThreads:
    """Runs blocking calls for one event loop."""

    def __init__(self, size: int, *, max_stuck: int) -> None:
        self._max_stuck = max_stuck
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Thread] = []
        self.stuck = 0
        """Calls that were given up and have not come back so far."""

    async def call(
        self,
        what: str,
        function: Callable[[], T],
        timeout_s: float,
        *,
        late: Callable[[], object] = lambda: None,
    ) -> T:
        """Run `function` in a thread; its deadline starts with the call, not with the wait for a thread.

        `what` names the call in errors. `late` is run, in a thread, where nobody takes what the call gives:
        it came back after its deadline, or the caller was cancelled before, during or right after it.

        Raises:
            EnvFailure: with cause `timeout`, when the deadline passed.
            StuckEnvironmentsError: more than `max_stuck` calls never came back.
            Exception: whatever `function` raised.
        """
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            self._run_late(late)
            raise
        try:
            self._check_stuck()
            thread = self._idle.pop() if self._idle else _Thread()
            call = _Call(function, late, asyncio.get_running_loop(), self._came_back)
            thread.calls.put(call)
            try:
                async with asyncio.timeout(timeout_s):
                    error, value = await call.outcome
            except TimeoutError:
                if (outcome := call.leave()) is None:
                    self.stuck += 1
                    self._check_stuck()
                    reason = f"{what} did not come back within {timeout_s:g} s"
                    raise EnvFailure(cause="timeout", reason=reason) from None
                error, value = outcome  # in time: this loop was busy when it came back
            except asyncio.CancelledError:
                if call.leave() is None:
                    self.stuck += 1
                else:
                    self._idle.append(thread)
                    self._run_late(late)
                raise
            self._idle.append(thread)
        finally:
            self._slots.release()
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let the idle threads end. Those that hang are left behind."""
        while self._idle:
            self._idle.pop().calls.put(None)

    def _run_late(self, late: Callable[[], object]) -> None:
        """In a thread of its own. Not counted: no call hangs here, and many episodes may end at once."""
        nothing = _Call(lambda: None, late, asyncio.get_running_loop(), lambda: None)
        nothing.leave()
        _Thread().calls.put(nothing)

    def _check_stuck(self) -> None:
        if self.stuck > self._max_stuck:
            msg = (
                f"expected at most {self._max_stuck} environment calls that never come back, got {self.stuck}"
            )
            raise StuckEnvironmentsError(msg)

    def _came_back(self) -> None:
        self.stuck -= 1


class _Call:
    """One blocking call. Exactly one of the two sides decides whether it came back in time."""

    def __init__(
        self,
        function: Callable[[], Any],
        late: Callable[[], object],
        loop: asyncio.AbstractEventLoop,
        came_back: Callable[[], None],
    ) -> None:
        self.outcome: asyncio.Future[tuple[Exception | None, Any]] = loop.create_future()
        self._function = function
        self._late = late
        self._loop = loop
        self._came_back = came_back
        self._decided = threading.Lock()
        self._result: tuple[Exception | None, Any] | None = None

    def leave(self) -> tuple[Exception | None, Any] | None:
        """From the event loop: nobody waits any more. What it gave if it has come back already."""
        return None if self._decided.acquire(blocking=False) else self._result

    def run(self) -> bool:
        """In the thread. False: the call was given up, and the thread is no longer wanted."""
        error: Exception | None = None
        value: Any = None
        try:
            value = self._function()
        except Exception as raised:  # noqa: BLE001 - the environment's, handed to whoever waits
            error = raised
        except BaseException as raised:  # noqa: BLE001 - sys.exit() in an environment ends its episode, not us
            error = RuntimeError(f"raised {type(raised).__name__}: {raised}")
        self._result = (error, value)
        in_time = self._decided.acquire(blocking=False)
        try:
            if in_time:
                self._loop.call_soon_threadsafe(self._set, error, value)
            else:
                self._run_late()
                self._loop.call_soon_threadsafe(self._came_back)
        except RuntimeError:  # the loop is closed: the process is ending
            return False
        return in_time

    def _set(self, error: Exception | None, value: Any) -> None:
        if not self.outcome.done():
            self.outcome.set_result((error, value))

    def _run_late(self) -> None:
        try:
            self._late()
        except Exception:
            log.exception("cleaning up after a late environment call failed")


class _Thread:
    """A daemon thread that runs the calls of its own queue until it gets None or a call was given up."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="env-call", daemon=True).start()

    def _run(self) -> None:
        while (call := self.calls.get()) is not None:
            if not call.run():
                return


def call_with_deadline(what: str, function: Callable[[], T], timeout_s: float) -> T:
    """One call outside of any event loop. A call that is given up is left behind in its thread.

    Raises:
        EnvFailure: the deadline passed, or `function` raised what is not of our own.
        ActorError, EnvError: as `function` raised them.
    """

    async def call() -> T:
        threads = EnvThreads(1, max_stuck=1)
        try:
            return await threads.call(what, function, timeout_s)
        except (ActorError, EnvFailure, EnvError):
            raise
        except Exception as error:
            raise raised(what, error) from error
        finally:
            threads.close()

    return asyncio.run(call())


def raised(what: str, error: Exception) -> EnvFailure:
    """What becomes of an exception of the environment's own."""
    return EnvFailure(cause="environment", reason=f"{what} raised {type(error).__name__}: {error}")
