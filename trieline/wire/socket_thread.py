"""The thread that owns the sockets of a link: how it starts, waits, is woken, fails and ends."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import zmq

from trieline.wire import sockets
from trieline.wire.errors import WireError
from trieline.wire.gate import Gate
from trieline.wire.sockets import Waker

logger = logging.getLogger(__name__)

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


class SocketThread:
    """Runs `turn` when a socket can be read, when it is woken, and after the wait that it asked for.

    The sockets belong to this thread alone from `start` to `close`. An error of `turn` ends it, and everybody
    who calls `expect_running` then learns of it.
    """

    def __init__(
        self,
        name: str,
        *,
        open_sockets: Callable[[Context], Sequence[zmq.Socket[Any]]],
        turn: Callable[[], float],
        at_end: Callable[[], None] = lambda: None,
        gate: Gate | None = None,
    ) -> None:
        """`name`: for the log and for errors, "tree receiver at ADDRESS".

        `open_sockets` makes the sockets of a context and returns those to be polled; it runs in the thread
        that calls `start`. `turn` returns for how many seconds to wait at most. `at_end` runs in the thread
        when it ends, whatever for; after an error `failure` is set. `gate`: whom sockets that are bound let
        in.
        """
        self.failure: Exception | None = None
        self._name = name
        self._open_sockets = open_sockets
        self._turn = turn
        self._at_end = at_end
        self._gate = gate
        self._closing = False
        self._waker = Waker()
        self._context: Context | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Open the sockets and begin. Raises AddressError; nothing is open then."""
        context: Context = zmq.Context()
        try:
            gate = [] if self._gate is None else [self._gate.open(context)]
            self._polled = [*gate, *self._open_sockets(context)]
        except BaseException:
            context.destroy(linger=0)
            raise
        self._context = context
        self._thread.start()

    def wake(self) -> None:
        """Let `turn` run soon. From any thread."""
        self._waker.wake()

    def expect_running(self) -> None:
        """Raise WireError if the thread has failed."""
        if self.failure is not None:
            msg = f"the {self._name} failed: {self.failure}"
            raise WireError(msg) from self.failure

    def close(self) -> None:
        """End the thread and close its sockets. Idempotent, also without `start`."""
        if self._context is not None:
            context, self._context = self._context, None
            self._closing = True
            self._waker.wake()
            self._thread.join()
            context.destroy(linger=sockets.LINGER_MS)
        self._waker.close()

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            for polled in self._polled:
                poller.register(polled, zmq.POLLIN)
            poller.register(self._waker.fileno(), zmq.POLLIN)
            wait_s = 0.0
            while not self._closing:
                if self._waker.fileno() in dict(poller.poll(math.ceil(1000 * wait_s))):
                    self._waker.drain()
                if self._gate is not None:
                    self._gate.answer()
                wait_s = self._turn()
        except Exception as error:
            logger.exception("The %s failed", self._name)
            self.failure = error
        finally:
            self._at_end()
