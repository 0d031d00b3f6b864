"""Tar streams that trust nothing: what goes into a sandbox or comes out of one is checked, then written anew.

Only folders, regular files and symbolic links that stay inside pass. Refused by name: absolute paths and
'..', links that leave, hard links, devices, FIFOs, sparse files, a path that is there twice or lies behind a
link, more than `MAX_MEMBERS`, and more bytes than asked for, of contents or of headers.
"""

import tarfile
import tempfile
from pathlib import PurePosixPath
from typing import IO

from trieline.envs.errors import EnvError

MAX_MEMBERS = 200_000
MAX_PATH = 4096
MAX_DEPTH = 200
"""Folders in a path. An interpreter recurses through them, and a full path must fit what Linux takes."""
HEADER_BYTES = 256 * 1024
"""For the headers of one member. A tar can ask its reader to hold gigabytes of them in memory."""
IN_MEMORY_BYTES = 8 * 1024 * 1024
"""Larger archives are spooled to a file without a name, of which nothing is left when a process is killed."""
MODE = 0o777
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)


class ArchiveError(EnvError, OSError):
    """The tar is none, or holds what must not pass."""


class _Metered:
    """A stream that ends with an error when more is read than was allowed, and knows what it gave last."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.left = HEADER_BYTES
        self.end = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        if self.left <= 0:
            msg = f"expected headers of at most {HEADER_BYTES} bytes, got more"
            raise ArchiveError(msg)
        data = b""
        while len(data) < size and (part := self._source.read(size - len(data))):
            data += part  # a pipe gives less at a time
        if data:
            self.last = data
        self.left -= len(data)
        self.end += len(data)
        return data

    def block(self, offset: int) -> bytes:
        """512 bytes of what it gave last."""
        start = offset - (self.end - len(self.last))
        return self.last[start : start + tarfile.BLOCKSIZE] if start >= 0 else b""


class _Paths:
    """Those seen so far, each once, and none below what is not a folder."""

    def __init__(self) -> None:
        self._folders: set[PurePosixPath] = set()
        self._others: set[PurePosixPath] = set()

    def add(self, member: tarfile.TarInfo) -> None:
        path = _inner(member.name)
        if path in self._others or (path in self._folders and not member.isdir()):
            msg = f"expected each path once, got {member.name!r} again"
            raise ArchiveError(msg)
        for parent in path.parents:
            if parent in self._others:
                msg = f"expected a folder above {member.name!r}, got another file or a link"
                raise ArchiveError(msg)
            if parent in self._folders:
                break
        self._folders.update(path.parents)
        (self._folders if member.isdir() else self._others).add(path)


def _inner(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        msg = f"expected a relative path without '..', got {name[:MAX_PATH]!r}"
        raise ArchiveError(msg)
    if len(name) > MAX_PATH or len(path.parts) > MAX_DEPTH:
        msg = (
            f"expected a path of {MAX_PATH} characters and {MAX_DEPTH} folders at most, got {name[:99]!r}..."
        )
        raise ArchiveError(msg)
    return path


def _check_link(member: tarfile.TarInfo) -> None:
    """'..' only at the front: after the name of another link it would lead elsewhere than it seems to."""
    target = PurePosixPath(member.linkname)
    up = 0
    while up < len(target.parts) and target.parts[up] == "..":
        up += 1
    leaves = up > len(PurePosixPath(member.name).parent.parts) or ".." in target.parts[up:]
    if target.is_absolute() or leaves or not member.linkname or "\0" in member.linkname:
        msg = f"expected a link that stays inside, got {member.name!r} -> {member.linkname[:MAX_PATH]!r}"
        raise ArchiveError(msg)


def _checked(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """What is passed on of a member: its path, kind, permissions, time, size and target."""
    if member.type not in KINDS or member.issparse():
        what = "a sparse file" if member.issparse() else f"type {member.type!r}"
        msg = f"expected folders, files and symbolic links, got {member.name!r}: {what}"
        raise ArchiveError(msg)
    new = tarfile.TarInfo(member.name)
    new.type = tarfile.REGTYPE if member.isreg() else member.type
    new.mode, new.mtime = member.mode & MODE, max(0, int(member.mtime))
    if member.issym():
        _check_link(member)
        new.linkname = member.linkname
    if member.isreg():
        new.size = member.size
    return new


def copy(source: IO[bytes], out: IO[bytes], *, max_bytes: int) -> int:
    """Read a tar, and write a tar of the same files. Returns how many; ArchiveError for what must not pass.

    `max_bytes` is for all contents together.
    """
    metered, paths = _Metered(source), _Paths()
    members = total = 0
    try:
        with (
            tarfile.open(fileobj=metered, mode="r|") as tar,  # type: ignore[call-overload]  # it only reads
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as written,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                members, total = members + 1, total + member.size
                if members > MAX_MEMBERS or total > max_bytes or member.size < 0:
                    msg = f"expected at most {MAX_MEMBERS} files of {max_bytes} bytes together, got more"
                    raise ArchiveError(msg)
                paths.add(member)
                new = _checked(member)
                metered.left = member.size + HEADER_BYTES
                written.addfile(new, tar.extractfile(member) if member.isreg() else None)
                metered.left = HEADER_BYTES
            if metered.block(tar.offset) != bytes(tarfile.BLOCKSIZE):
                # What is no header would else pass for the end.
                msg = f"expected the end of a tar after {members} files, got something else"
                raise ArchiveError(msg)
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        msg = f"expected a tar, got something else: {error}"
        raise ArchiveError(msg) from error
    return members


def checked(source: IO[bytes], *, max_bytes: int) -> IO[bytes]:
    """A tar of the same files, to be read from its start: see `copy`. The caller closes it."""
    spool = new_spool()
    try:
        copy(source, spool, max_bytes=max_bytes)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


def new_spool() -> IO[bytes]:
    """An empty file in memory, or on disk once it is large."""
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)
