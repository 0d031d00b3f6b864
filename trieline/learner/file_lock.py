"""A lock between processes of one machine: the kernel drops it when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trieline.learner.errors import LearnerError

POLL_S = 0.2


@contextmanager
def file_lock(path: Path, *, what: str, timeout_s: float = 900.0) -> Iterator[None]:
    """Hold the lock on `path` inside the block.

    Raises:
        LearnerError: another process held it for `timeout_s` seconds; the message names its process id.
    """
    with path.open("a+") as file:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read(32).strip() or "unknown"
                msg = f"waited {timeout_s:.0f} s for process {holder}, which holds {path}, {what}"
                raise LearnerError(msg)
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
