"""Policy servers of one machine: a version is fetched by one of them, and linked by the others.

Each has a folder of its own, beside those of the others. Who fetches holds the lock on a file beside the
folders; the kernel drops it when the holder dies, and who gets nothing is not waited for. What a neighbour
has is believed only if it has the sum that the learner has announced.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trieline.common.file_lock import try_lock
from trieline.common.regular_file import open_regular

LOCKS = ".weights-*.safetensors.lock"
"""The names of all locks."""


class Neighbours:
    """The other servers of this user on this machine."""

    def __init__(self, own: Path, pattern: str, *, patience_s: float) -> None:
        """`pattern`: of the names of their folders beside `own`; "": there is nobody.

        `patience_s`: for whoever fetches, and gets nothing.
        """
        self._own = own
        self._pattern = pattern
        self._patience_s = patience_s
        self._lock: int | None = None
        self._path = own
        self._wrong: set[int] = set()
        """Inodes of files that are not what they are called."""

    def begin(self, name: str) -> bool:
        """Whether this server is to fetch the file; False: another one does."""
        if not self._pattern:
            return True
        self._path = self._own.with_name(f".{name}.lock")
        try:
            lock = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        except OSError:
            # Somebody else's, or there is no room for it.
            return True
        found = os.fstat(lock)
        if try_lock(lock):
            if _is_still(self._path, found):
                self._lock = lock
                self._sweep()
                self.goes_on()
                return True
            # It was removed meanwhile: there is another one by now, or soon.
            os.close(lock)
            return False
        os.close(lock)
        return found.st_uid != os.geteuid() or time.time() - found.st_mtime > self._patience_s

    def goes_on(self) -> None:
        """Something came of the file."""
        if self._lock is not None:
            os.utime(self._lock)

    def end(self) -> None:
        """The file is there, or will not be. Idempotent."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._lock)
            self._lock = None

    def link(self, name: str, is_whole: Callable[[Path], bool]) -> Path | None:
        """The file of this name in the own folder, too, if a neighbour has it whole."""
        target = self._own / name
        for folder in self._folders():
            try:
                os.link(folder / name, target, follow_symlinks=False)
            except OSError:
                continue
            if (inode := target.lstat().st_ino) not in self._wrong:
                if is_whole(target):
                    return target
                self._wrong.add(inode)
            target.unlink()
        return None

    def _sweep(self) -> None:
        """Remove the locks of this user that dead holders left."""
        for path in self._own.parent.glob(LOCKS):
            with contextlib.suppress(OSError), os.fdopen(open_regular(path, os.O_RDWR), "rb+") as lock:
                found = os.fstat(lock.fileno())
                if found.st_uid == os.geteuid() and try_lock(lock.fileno()) and _is_still(path, found):
                    path.unlink()

    def _folders(self) -> Iterator[Path]:
        for folder in self._own.parent.glob(self._pattern) if self._pattern else ():
            with contextlib.suppress(OSError):
                found = folder.lstat()
                is_own = found.st_uid == os.geteuid() and not found.st_mode & 0o022
                if folder != self._own and stat.S_ISDIR(found.st_mode) and is_own:
                    yield folder


def _is_still(path: Path, found: os.stat_result) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, path.stat())
    return False
