"""Folders and files that are whole or not there: written under another name, then renamed."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end unless it was renamed away."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`, its files on the disk first. What stood at `target` is removed."""
    for path in source.rglob("*"):
        if path.is_file():
            sync(path)
    source.chmod(0o755)
    if target.exists():
        retired = target.with_name(f".{target.name}-retired-{os.getpid()}")
        target.rename(retired)
        source.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        source.rename(target)
    sync(target.parent)


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in `folder`, which is made itself if it is not there."""
    there = next((p for p in (folder, *folder.absolute().parents) if os.path.lexists(p)), Path("/"))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def make_private(folder: Path) -> None:
    """Make `folder`, or see that it is one of this user's that nobody else can write to or look into.

    Raises:
        OSError: it can't be made, or is a link, somebody else's or open to others.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        came = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
    elif found.st_uid != os.geteuid():
        came = f"a folder of user {found.st_uid}"
    elif found.st_mode & 0o077:
        came = f"one of mode {stat.S_IMODE(found.st_mode):o}"
    else:
        return
    msg = f"expected a folder of user {os.geteuid()}, got {came} in place of one of mode 700"
    raise OSError(errno.EPERM, msg, str(folder))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another path to write a file at: it is moved to `path`, on the disk first, unless an error comes.

    The same at every call, so that what a killed process left is written over.
    """
    scratch = path.with_name(f".{path.name}.new")
    try:
        yield scratch
        sync(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, on the disk before it has its name. Raises OSError."""
    with whole_file(path) as scratch:
        scratch.write_bytes(data)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
