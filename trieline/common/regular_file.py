"""Files opened where others may have put something else: a link is not followed, a pipe not waited for."""

import os
import stat
from pathlib import Path


def open_regular(path: Path | str, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """A descriptor of a regular file; never a link or a pipe, and never a wait. `dir_fd`: as of `os.open`.

    Raises:
        OSError: it can't be opened, or is something else.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"expected a regular file at {path}"
        raise OSError(msg)
    return descriptor
