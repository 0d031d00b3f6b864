"""Closes what is still open when a process ends: normally, by an exception or as a multiprocessing worker.

A process that is killed closes nothing, but its keepers notice the hang-up and end their sandboxes.
"""

import atexit
import logging
import os
import threading
from multiprocessing import util
from typing import Protocol

logger = logging.getLogger(__name__)


class Closeable(Protocol):
    """Anything with an idempotent close."""

    def close(self) -> None: ...


_lock = threading.Lock()
_open: dict[int, Closeable] = {}
"""By identity. Not weakly: what its user dropped without closing must be closed all the same."""
_pid: int | None = None


def close_at_exit(thing: Closeable) -> None:
    """Close `thing` when this process ends, unless it was closed by then. Forks don't inherit the duty."""
    global _pid
    with _lock:
        if _pid != os.getpid():
            _open.clear()
            _pid = os.getpid()
            atexit.register(close_all)
            # Workers of multiprocessing end by os._exit, after these finalizers and without atexit.
            util.Finalize(None, close_all, exitpriority=100)
        _open[id(thing)] = thing


def forget(thing: Closeable) -> None:
    """`thing` is closed."""
    _open.pop(id(thing), None)


def close_all() -> None:
    """What else happens at the end of this process, for who ends it by os._exit. Idempotent."""
    if _pid != os.getpid():
        return
    while _open:
        _, thing = _open.popitem()
        try:
            thing.close()
        except Exception:  # the end of the process: the others must be closed too
            logger.exception("could not close %s at exit", thing)
