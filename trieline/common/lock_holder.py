"""The process that holds a lock (`file_lock`), found and signalled without meeting another of its number.

A process id may be used anew as soon as its process is gone. So the process is held by a descriptor first,
and is only believed if it has the locked file open after that; signals go through the descriptor.
"""

import fcntl
import os
import select
import signal
import time
from pathlib import Path

from trieline.common.errors import LockError

# Between taking a lock and writing its number into the file, its holder is unknown.
WRITING_S = 2.0
POLL_S = 0.02


class LockHolder:
    """A living process; `close` lets go of it."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens if it is gone."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end. False: it still lives."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(1000 * timeout_s))

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "LockHolder":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def find_holder(path: Path) -> LockHolder | None:
    """The process that holds the lock at `path`; None if none does.

    Raises:
        LockError: it is held from another machine, or by a process that can't be looked into.
    """
    deadline = time.monotonic() + WRITING_S
    while True:
        text = _text_if_held(path)
        if text is None:
            return None
        holder = hold_process(int(text)) if text.isdecimal() else None
        if holder is not None:
            if _has_open(holder.pid, path):
                return holder
            holder.close()
        if time.monotonic() >= deadline:
            msg = f"expected a process of this machine to hold {path}, got {text or 'one'} elsewhere"
            raise LockError(msg)
        time.sleep(POLL_S)


def hold_process(pid: int) -> LockHolder | None:
    """The process that has this number now; None if there is none. Whether it is the right one, ask then."""
    try:
        return LockHolder(pid, os.pidfd_open(pid))
    except (ProcessLookupError, ValueError, OverflowError):
        return None


def _text_if_held(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            try:
                # Shared: those who only look don't meet each other.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(32).decode("ascii", "replace").strip()
    except FileNotFoundError:
        pass
    return None


def _has_open(pid: int, path: Path) -> bool:
    """Whether the process has this very file open."""
    wanted = path.stat()
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.path.samestat(descriptor.stat(), wanted):
                return True
        except OSError:
            continue
    return False
