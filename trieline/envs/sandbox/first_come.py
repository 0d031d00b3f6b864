"""First come, first served: who waits for a turn gets it before those who come later."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Line:
    """A lock, and those who wait for what it guards. Conditions of `threading` let later ones in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Condition] = deque()

    @contextmanager
    def turn(self, ready: Callable[[], bool], timeout_s: float) -> Iterator[bool]:
        """Wait until this caller is the first and `ready()`, then run the body with the lock held.

        Gives False if that had not come within `timeout_s`.
        """
        with self._lock:
            me = threading.Condition(self._lock)
            self._waiting.append(me)
            try:
                yield me.wait_for(lambda: self._waiting[0] is me and ready(), timeout_s)
            finally:
                self._waiting.remove(me)
                self._call_first()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Change what `ready` looks at, with the lock held."""
        with self._lock:
            try:
                yield
            finally:
                self._call_first()

    def _call_first(self) -> None:
        if self._waiting:
            self._waiting[0].notify()
