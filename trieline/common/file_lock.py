"""Locks between processes of one machine: the kernel drops them when their holder dies."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trieline.common.errors import LockError
from trieline.common.regular_file import open_regular

POLL_S = 0.2


@contextmanager
def file_lock(path: Path, *, what: str, timeout_s: float = 900.0) -> Iterator[None]:
    """Hold the lock on `path` inside the block.

    Raises:
        LockError: another process held it for `timeout_s` seconds; the message names its process id.
    """
    with path.open("a+") as file:
        deadline = time.monotonic() + timeout_s
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read(32).strip() or "unknown"
                msg = f"process {holder} holds {path} {what}; waited {timeout_s:.0f} s for it"
                raise LockError(msg)
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep the file at `path` from being written over (`try_lock`) inside the block.

    Raises:
        FileNotFoundError: there is none, or it went away before it was held.
        OSError: it can't be opened, or is no regular file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "replaced before it was held", str(path))
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process alone; False if another one holds it, or reads it (`reading`)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
