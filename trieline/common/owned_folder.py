"""Folders that one process has for itself as long as it lives, and that are removed with it or after it.

The owner holds a lock on a file in the folder. The kernel drops the lock when the owner dies, so that a dead
owner is never mistaken for a living one, as a process id could be. Such folders lie where everybody may write
(`/tmp`, `/dev/shm`): what is there is believed only if it belongs to this user, and is opened without
following links or waiting.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trieline.common.errors import LockError
from trieline.common.file_lock import try_lock
from trieline.common.regular_file import open_regular

OWNER_FILE = "owner"
# While somebody who takes the folder for an orphan's holds the lock.
CLAIM_S = 2.0
POLL_S = 0.02


class OwnedFolder:
    """A folder of mode 0700 that was empty when it was claimed."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    def close(self) -> None:
        """Remove it with all that is in it. Idempotent."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def claim_folder(path: Path) -> OwnedFolder:
    """The folder at `path`, made if it is not there, emptied if a dead owner left it.

    Raises:
        LockError: it is another user's, no folder, or a living process has it; the message says which.
    """
    deadline = time.monotonic() + CLAIM_S
    while True:
        _make(path)
        lock = _lock_of(path, create=True)
        if lock is not None:
            _empty(path)
            return OwnedFolder(path, lock)
        if time.monotonic() >= deadline:
            msg = f"expected {path} to be free, another process has it"
            raise LockError(msg)
        time.sleep(POLL_S)


def new_folder(prefix: str) -> OwnedFolder:
    """A folder of a name of its own beside the other temporary files. What dead owners left there goes."""
    parent = Path(tempfile.gettempdir())
    sweep(parent, f"{prefix}*")
    return claim_folder(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))


def sweep(parent: Path, pattern: str) -> None:
    """Remove the folders of this user whose owners are dead."""
    for path in parent.glob(pattern):
        try:
            lock = _lock_of(path, create=False)
        except (LockError, OSError):
            continue
        if lock is not None:
            OwnedFolder(path, lock).close()


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"can't make the folder {path}: {error.strerror}"
        raise LockError(msg) from error


def _lock_of(path: Path, *, create: bool) -> int | None:
    """The lock on this user's folder; None while another process has it, or if it was just removed."""
    with _own_directory(path) as directory:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDWR
        try:
            lock = open_regular(OWNER_FILE, flags, dir_fd=directory)
        except FileNotFoundError:
            # Just being made, or just removed.
            return None
        except OSError as error:
            msg = f"can't use {path}: {OWNER_FILE}: {error}"
            raise LockError(msg) from error
        if try_lock(lock) and _is_still(path, directory):
            return lock
        os.close(lock)
        return None


@contextmanager
def _own_directory(path: Path) -> Iterator[int]:
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        msg = f"expected a folder at {path}, got: {error.strerror}"
        raise LockError(msg) from error
    try:
        if (owner := os.fstat(directory).st_uid) != os.getuid():
            msg = f"{path} belongs to another user (id {owner})"
            raise LockError(msg)
        yield directory
    finally:
        os.close(directory)


def _is_still(path: Path, directory: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(directory))
    except FileNotFoundError:
        return False


def _empty(path: Path) -> None:
    path.chmod(0o700)
    for left in path.iterdir():
        if left.name == OWNER_FILE:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
