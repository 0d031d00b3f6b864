"""How many sandboxes may be open at once that are kept for longer than one exec, whatever each is made of.

A pool has sandboxes of one spec. Where each task has a spec of its own, such as its own repository, what is
bounded is their number alone.
"""

import os
import threading
from typing import Self

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox.first_come import Line
from trieline.envs.sandbox.pool import ACQUIRE_SECONDS


class Place:
    """One of the places. Given back once, by whatever comes first."""

    def __init__(self, places: "Places") -> None:
        self._places = places
        self._lock = threading.Lock()
        self._over = False

    def close(self) -> None:
        """Somebody else may have it. Idempotent."""
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._places._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Places:
    """At most `size` are taken at once, by any thread. Who came first is served first."""

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            msg = f"expected at least 1 place for {what}, got {size}"
            raise ValueError(msg)
        self.size = size
        self._what = what
        self._taken = 0
        self._line = Line()
        """Guards the number of those taken."""

    def take(self, timeout_s: float = ACQUIRE_SECONDS) -> Place:
        """A place, until it is closed. SandboxError after `timeout_s`."""
        with self._line.turn(lambda: self._taken < self.size, timeout_s) as came:
            if not came:
                msg = f"waited {timeout_s:.1f} s for one of {self.size} {self._what}: all of them are open"
                raise SandboxError(msg)
            self._taken += 1
        return Place(self)

    def _give_back(self) -> None:
        with self._line.change():
            self._taken -= 1


_shared_lock = threading.Lock()
_shared: dict[tuple[int, int, str], Places] = {}


def shared_places(size: int, what: str) -> Places:
    """Those of this process for `what`, `size` of them. A fork has its own."""
    key = (os.getpid(), size, what)
    with _shared_lock:
        return _shared.setdefault(key, Places(size, what))
