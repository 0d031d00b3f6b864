"""Files of the writable folder, reached without ever following a link that a program may have planted."""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH118, PTH208
# the keeper starts faster without pathlib, and half of these calls take a dir_fd
from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import io
import os
import stat
import tarfile

READ_CHUNK = 1024 * 1024
# FS_IOC_GETFLAGS and FS_IOC_SETFLAGS on 64 bits, of Linux's include/uapi/linux/fs.h.
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602


def _parts(workdir: str, path: str) -> list[str]:
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path holds no NUL", path)
    if path.startswith("/"):
        prefix = workdir.rstrip("/") + "/"
        if not path.startswith(prefix):
            raise OSError(errno.EACCES, f"only files under {workdir} can be reached", path)
        path = path[len(prefix) :]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise OSError(errno.EISDIR, "expected the path of a file, got that of the folder", path)
    if ".." in parts:
        raise OSError(errno.EACCES, "'..' is not allowed", path)
    return parts


def _open(workdir: str, path: str, flags: int, *, make_folders: bool = False) -> int:
    """A regular file under `workdir`. No component of the path may be a symbolic link."""
    *folders, name = _parts(workdir, path)
    folder = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            if make_folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: a FIFO in the place of the file must not hang the one who opens it.
        file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return file


def read(workdir: str, path: str, max_bytes: int) -> bytes:
    """The whole file; OSError if it is not there, not regular, behind a link or larger than `max_bytes`."""
    with open(_open(workdir, path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"expected at most {max_bytes} bytes, the file has {size}", path)
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"expected at most {max_bytes} bytes, the file has more", path)
    return data


def write(workdir: str, path: str, data: bytes) -> None:
    """Create or replace a file, and the folders above it."""
    with open(_open(workdir, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, make_folders=True), "wb") as file:
        file.write(data)


def wipe(workdir: str) -> None:
    """Remove everything in `workdir`, however deep and whatever its permissions.

    A folder's children are moved up before it is removed, so nesting never costs more than one level.
    """
    moved = 0
    while names := os.listdir(workdir):
        for name in names:
            path = os.path.join(workdir, name)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for child in os.listdir(path):
                inner = os.path.join(path, child)
                mode = os.lstat(inner).st_mode
                if not stat.S_ISDIR(mode):
                    os.unlink(inner)
                    continue
                os.chmod(inner, 0o700)
                while os.path.lexists(target := os.path.join(workdir, f".wipe-{moved}")):
                    moved += 1
                os.rename(inner, target)
            os.rmdir(path)


Marks = tuple[dict[str, bytes], int]
"""What can be left on a folder itself beside its mode: extended attributes (ACLs too), and inode flags."""


def marks(workdir: str) -> Marks:
    """Those of the work folder."""
    try:
        names = os.listxattr(workdir)
    except OSError:  # this kind of file system has none
        names = []
    return {name: os.getxattr(workdir, name) for name in names}, _flags(workdir)


def _flags(workdir: str, new: int | None = None) -> int:
    """Inode flags (chattr), after a change to `new` if given; 0 if this kind of file system has none."""
    folder = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = array.array("l", [new or 0])
    try:
        if new is not None:
            fcntl.ioctl(folder, SET_FLAGS, flags)
        fcntl.ioctl(folder, GET_FLAGS, flags)
        return flags[0]
    except OSError:
        return 0
    finally:
        os.close(folder)


def clean(workdir: str, clean_marks: Marks) -> None:
    """Back to an empty folder with `clean_marks`, as far as can be: the caller looks at `marks` again."""
    os.chmod(workdir, 0o700)
    attributes, flags = marks(workdir)
    for name in attributes.keys() - clean_marks[0].keys():
        os.removexattr(workdir, name)
    if flags != clean_marks[1]:
        _flags(workdir, clean_marks[1])
    wipe(workdir)
    os.utime(workdir)


class _Counter(io.RawIOBase):
    """Takes an archive, keeps its size, and stops at a bound: sparse files hold far more than they take."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # the base class takes any buffer
        self.size += len(data)
        if self.size > self.max_bytes:
            raise OSError(errno.EFBIG, f"the files take more than {self.max_bytes} bytes")
        return len(data)


def make_readable(workdir: str) -> None:
    """Add the owner's permission to read where a program took it away."""
    for folder, names, files in os.walk(workdir, onerror=_raise):
        for name in names + files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            wanted = 0o700 if stat.S_ISDIR(mode) else 0o400
            if not stat.S_ISLNK(mode) and mode & wanted != wanted:
                os.chmod(path, stat.S_IMODE(mode) | wanted)


def _raise(error: OSError) -> None:
    raise error


def archive(workdir: str, out: io.RawIOBase) -> None:
    """Stream all files as a tar. The same files give the same bytes."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(workdir)):
            tar.add(os.path.join(workdir, name), arcname=name)


def archive_size(workdir: str, max_bytes: int) -> int:
    """Bytes that `archive` will write. OSError if they are more than `max_bytes`."""
    make_readable(workdir)
    counter = _Counter(max_bytes)
    archive(workdir, counter)
    return counter.size


def restore(workdir: str, source: io.RawIOBase) -> None:
    """Unpack what `archive` made, into the empty folder of a new sandbox, as its unprivileged user."""
    with tarfile.open(fileobj=source, mode="r|") as tar:
        tar.extractall(workdir)
