"""Files of the writable folder, reached without ever following a link that a program may have planted."""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH118, PTH123, PTH208
# the keeper starts faster without pathlib, and half of these calls take a dir_fd
from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, Union

READ_CHUNK = 1024 * 1024
Stream = Union[io.RawIOBase, IO[bytes]]  # noqa: UP007  # `|` of types is new in Python 3.10
# FS_IOC_GETFLAGS and FS_IOC_SETFLAGS on 64 bits, of Linux's include/uapi/linux/fs.h.
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602


def _parts(workdir: str, path: str, *, of_folder: bool = False) -> list[str]:
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path holds no NUL", path)
    if path.startswith("/"):
        prefix = workdir.rstrip("/") + "/"
        if not (path + "/").startswith(prefix):
            raise OSError(errno.EACCES, f"only files under {workdir} can be reached", path)
        path = path[len(prefix) :]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts and not of_folder:
        raise OSError(errno.EISDIR, "expected the path of a file, got that of the folder", path)
    if ".." in parts:
        raise OSError(errno.EACCES, "'..' is not allowed", path)
    return parts


def _open_folder(workdir: str, parts: list[str], *, make: bool = False) -> int:
    """A folder under `workdir`. No component of its path may be a symbolic link."""
    folder = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _open(workdir: str, path: str, flags: int, *, make_folders: bool = False) -> int:
    """A regular file under `workdir`. No component of the path may be a symbolic link."""
    *folders, name = _parts(workdir, path)
    folder = _open_folder(workdir, folders, make=make_folders)
    try:
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


class Counter(io.RawIOBase):
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


class Folder:
    """All files of a folder, as an archive that only this class unpacks."""

    def __init__(self, path: str) -> None:
        self.path = path

    def archive(self, out: Stream, *, hard_links: bool = True) -> None:
        """Stream all files as a tar. The same files give the same bytes."""
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:

            def forget_links(member: tarfile.TarInfo) -> tarfile.TarInfo:
                if not hard_links:
                    tar.inodes.clear()  # type: ignore[attr-defined]  # what it takes for a second link by
                return member

            for name in sorted(os.listdir(self.path)):
                tar.add(os.path.join(self.path, name), arcname=name, filter=forget_links)

    def archive_size(self, max_bytes: int, *, hard_links: bool = True) -> int:
        """Bytes that `archive` will write. OSError if they are more than `max_bytes`, or folders too deep."""
        counter = Counter(max_bytes)
        with bounded_depth():
            make_readable(self.path)
            self.archive(counter, hard_links=hard_links)
        return counter.size

    def restore(self, source: Stream) -> None:
        """Unpack what `archive` made, into the empty folder of a new sandbox, as its unprivileged user."""
        with tarfile.open(fileobj=source, mode="r|") as tar:
            trust(tar)
            tar.extractall(self.path)


@contextlib.contextmanager
def bounded_depth() -> Iterator[None]:
    """Folders within folders beyond what tarfile goes down to are the doing of who made them: an OSError."""
    try:
        yield
    except RecursionError:
        raise OSError(errno.ELOOP, "expected fewer folders within each other") from None


def trust(tar: tarfile.TarFile) -> None:
    """It comes from a keeper: links are as programs made them. Newer Pythons would refuse some."""
    tar.extraction_filter = lambda member, _path: member


def unpack(workdir: str, path: str, source: Stream) -> None:
    """Put the folders, files and symbolic links of a tar into the folder `path` of the work folder.

    Files and links replace what is not a folder; no link is followed. OSError for what can't be placed.
    """
    modes = {}
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            name = f"{path}/{member.name}"
            if member.isdir():
                parts = _parts(workdir, name, of_folder=True)
                os.close(_open_folder(workdir, parts, make=True))
                modes["/".join(parts)] = member.mode
            else:
                _place(workdir, name, tar, member)
    for name, mode in sorted(modes.items(), reverse=True):
        folder = _open_folder(workdir, name.split("/") if name else [])
        os.fchmod(folder, mode & 0o777)
        os.close(folder)


def _place(workdir: str, path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    *folders, name = _parts(workdir, path)
    folder = _open_folder(workdir, folders, make=True)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=folder)
            return
        if not member.isreg():
            raise OSError(errno.EINVAL, "expected a folder, a file or a symbolic link", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            shutil.copyfileobj(tar.extractfile(member), file, READ_CHUNK)  # type: ignore[arg-type]
            file.flush()
            os.fchmod(file.fileno(), member.mode & 0o777)
            os.utime(file.fileno(), (member.mtime, member.mtime))
    finally:
        os.close(folder)


@contextlib.contextmanager
def packed(workdir: str, path: str) -> Iterator[Folder]:
    """The folder `path` of the work folder, for an archive of it. No link is followed."""
    folder = _open_folder(workdir, _parts(workdir, path, of_folder=True))
    try:
        yield Folder(f"/proc/self/fd/{folder}")
    finally:
        os.close(folder)
