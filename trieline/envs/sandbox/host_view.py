"""What a sandbox under bubblewrap shows of this host: a system with an interpreter, and no Python package.

A program must not get at what lies beside the interpreter: Trieline may be installed there, with the tests
that are hidden from it. So the interpreter's binary and library are shown and not its whole prefix, folders
of /usr that hold what people install themselves are left out, and whatever holds packages, or is imported
from by this process, is covered by an empty folder.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

SYSTEM_PREFIXES = (Path("/usr"), Path("/usr/local"))
USR_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include", "share")
TOP_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
PREFIX_LIBRARIES = ("lib", "lib64")
PACKAGES = ("python*/*-packages", "pypy*/*-packages", "*/lib/python*/*-packages")
"""In a folder of libraries: site-packages, Debian's dist-packages, and those of a program with a Python of
its own. Deeper ones are not looked for, which takes a second: they are covered if this process imports from
them."""
MADE_BY_BUBBLEWRAP = ("proc", "dev", "sys")
OLDEST_PYTHON = (3, 9)
PACKAGE = Path(__file__).resolve().parents[2]


@cache
def interpreter() -> tuple[Path, Path | None]:
    """A Python for the sandbox, and the prefix to show there for it (None: /usr, shown anyway)."""
    for prefix in SYSTEM_PREFIXES:
        python = (prefix / "bin" / "python3").resolve()
        if python.parent == prefix / "bin" and python.exists() and _version(python) >= OLDEST_PYTHON:
            return python, None if prefix == Path("/usr") else prefix
    prefix = Path(sys.base_prefix).resolve()
    return prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}", prefix


def _version(python: Path) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, timeout=20, check=True)
        return tuple(int(number) for number in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return (0, 0)


def _show(path: Path, shown_as: Path, source: Path | None = None) -> list[str]:
    """Nothing if it isn't there. A link stays one. bubblewrap finds it at `source`, else at `path`."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(shown_as)]
    return ["--ro-bind", str(source or path), str(shown_as)] if path.exists() else []


def _cover(folders: Sequence[Path]) -> list[str]:
    arguments = []
    for folder in folders:
        arguments += ["--perms", "0555", "--tmpfs", str(folder), "--remount-ro", str(folder)]
    return arguments


def _imported_from() -> Iterator[Path]:
    """This package, and where this process finds modules, the standard library apart."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    yield PACKAGE
    for entry in (*sys.path, str(PACKAGE.parent)):
        folder = Path(entry).resolve()
        if folder.is_dir() and not standard.is_relative_to(folder) and not folder.is_relative_to(standard):
            yield folder


def _outermost(folders: set[Path]) -> list[Path]:
    return sorted(folder for folder in folders if folders.isdisjoint(folder.parents))


@cache
def _of_host(python: Path, prefix: Path | None, source: Path | None) -> list[str]:
    shown = [Path("/usr", name) for name in USR_FOLDERS] + [Path("/", name) for name in TOP_FOLDERS]
    arguments = [word for folder in shown for word in _show(folder, folder)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", name, name]
    libraries = [folder for folder in shown if folder.name.startswith("lib")]
    if prefix is not None:
        at = source or prefix
        arguments += ["--ro-bind", str(at / "bin" / python.name), str(python)]
        if python.name != "python3":
            arguments += ["--symlink", python.name, str(python.parent / "python3")]
        libraries += [prefix / name for name in PREFIX_LIBRARIES]
        for name in PREFIX_LIBRARIES:
            arguments += _show(prefix / name, prefix / name, at / name)
        shown += libraries
    packages = {found.resolve() for folder in libraries for kind in PACKAGES for found in folder.glob(kind)}
    packages.update(_imported_from())
    return arguments + _cover(_outermost({it for it in packages if not set(shown).isdisjoint(it.parents)}))


def _of_folder(root: Path, source: Path | None) -> list[str]:
    arguments: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.name not in MADE_BY_BUBBLEWRAP:
            arguments += _show(entry, Path("/") / entry.name, source and source / entry.name)
    real = root.resolve()
    inside = {folder for folder in _imported_from() if real in folder.parents}
    return arguments + _cover([Path("/") / folder.relative_to(real) for folder in _outermost(inside)])


def arguments(folder: Path | None, source: Path | None) -> list[str]:
    """For bubblewrap: show the prepared root `folder`, or else this host's system and `interpreter()`.

    `source` is where bubblewrap finds the folder, or the interpreter's prefix (None: where it is).
    """
    return _of_folder(folder, source) if folder else _of_host(*interpreter(), source)
