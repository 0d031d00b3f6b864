"""Files of packages as the index has them, unpacked as what they are: archives that strangers made.

Nothing in them is run or imported here. Sizes, numbers and paths are bounded before anything is written.
"""

import compileall
import gzip
import py_compile
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from trieline.envs.errors import DataError
from trieline.envs.sandbox import archives

MOST_BYTES = 256 * 2**20
"""Of one package, unpacked: twenty times that of the largest one in `trieline-mini`."""
MOST_FILES = 20_000
COMPILED = (".so", ".pyd", ".dll", ".dylib")
PARENTS = ("..", ".git")
"""Names that no part of a path may have."""


def unpack_sdist(path: Path, folder: Path) -> Path:
    """Unpack a source distribution in the empty `folder`; returns the one folder that it holds.

    Raises:
        DataError: it is none, or holds what must not pass; names the file.
    """
    try:
        with (
            gzip.open(path) as packed,
            archives.checked(cast(IO[bytes], packed), max_bytes=MOST_BYTES) as checked,
            tarfile.open(fileobj=checked, mode="r:") as tar,
        ):
            for member in tar:
                if ".git" in PurePosixPath(member.name.lower()).parts:
                    msg = f"expected no git folder, got {member.name!r}"
                    raise DataError(msg)
                tar.extract(member, folder, filter="data")
    except (archives.ArchiveError, tarfile.TarError, EOFError, zlib.error, OSError, DataError) as error:
        msg = f"{path.name}: expected a source distribution (.tar.gz): {error}"
        raise DataError(msg) from error
    found = list(folder.iterdir())
    if len(found) != 1 or not found[0].is_dir() or found[0].is_symlink():
        msg = f"{path.name}: expected one folder at the top, got {sorted(p.name for p in found)[:5]}"
        raise DataError(msg)
    return found[0]


def unpack_wheel(path: Path, folder: Path) -> None:
    """Unpack a wheel of pure Python in `folder`, beside what is there.

    Raises:
        DataError: it is none, is compiled, or holds what must not pass; names the file.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            members = [member for member in wheel.infolist() if not member.is_dir()]
            _check(members)
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as packed:
                    data = packed.read(member.file_size + 1)
                if len(data) != member.file_size:
                    msg = f"expected {member.file_size} bytes of {member.filename!r}, got others"
                    raise DataError(msg)
                target.write_bytes(data)
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError, NotImplementedError, DataError) as error:
        msg = f"{path.name}: expected a wheel of pure Python: {error}"
        raise DataError(msg) from error


def compile_all(folder: Path) -> None:
    """Put the compiled form beside each module, so that no workspace compiles it again. Nothing is run."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, invalidation_mode=mode)


def _check(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
        msg = f"expected at most {MOST_FILES:,} files of {MOST_BYTES:,} bytes together, got more"
        raise DataError(msg)
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or not name.parts or not {*PARENTS}.isdisjoint(name.parts):
            msg = f"expected relative paths without {' and '.join(PARENTS)}, got {member.filename!r}"
            raise DataError(msg)
        if stat.S_ISLNK(member.external_attr >> 16) or name.suffix in COMPILED:
            msg = f"expected files that are neither links nor compiled, got {member.filename!r}"
            raise DataError(msg)
