"""The keeper as one command line, so that any image with Python can run it, without files of ours in it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypedDict

from trieline.envs.sandbox import inside
from trieline.envs.sandbox.base import SandboxLimits, SandboxSpec

MODULES = ("frames", "files", "checkout", "programs", "syscall_filter", "keeper")
WORKDIR = PurePosixPath("/work")
UID = 1000
"""User and group id of keeper and programs, inside the sandbox."""
PATH = "/usr/local/bin:/usr/bin:/bin"
OPEN_FILES = 256
BYTES_PER_FILE = 1024
"""At most `disk_bytes / BYTES_PER_FILE` files may be written: even an empty one takes kernel memory."""
LEAST_FILES = 1024

# Makes the modules importable under their real names, then runs the keeper.
_BOOTSTRAP = """
import sys, types
sources = {sources!r}
for name in {packages!r}:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in sources.items():
    module = sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    exec(compile(source, name, "exec"), module.__dict__)
module.run_from_command_line()
"""


class Settings(TypedDict):
    """What the keeper is told once, at its start."""

    workdir: str
    checkout: bool
    """Is it what `workdir` shows, still to be made writable?"""
    disk_bytes: int
    environment: Mapping[str, str]
    output_bytes: int
    tail_bytes: int
    rlimits: Mapping[str, int]
    watch_memory_bytes: int
    """0: a control group bounds memory, the keeper need not watch."""
    socket_bytes: int
    """What the kernel can hold for one socket, where the keeper watches."""
    tcp_bytes: int
    """And beside it for one of TCP; 0: there are Unix sockets only."""
    max_files: int
    max_pids: int


def workdir(spec: SandboxSpec) -> PurePosixPath:
    """Where the work folder is in a sandbox of this spec."""
    return PurePosixPath(spec.workdir) if spec.workdir else WORKDIR


def user(spec: SandboxSpec) -> int:
    """User and group id of keeper and programs, inside the sandbox."""
    return UID if spec.user is None else spec.user


def environment(spec: SandboxSpec, *, path: str = PATH, home: str | None = None) -> dict[str, str]:
    """Of all programs. Of `path` and `home` (None: /tmp or the work folder), the spec may have its own."""
    if home is None:
        # In a work folder with a checkout, what programs leave in their home would look like a part of it.
        home = "/tmp" if spec.is_workspace else str(workdir(spec))
    return {"PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **dict(spec.environment)}


def max_files(limits: SandboxLimits) -> int:
    """Bound on the number of files in the writable folder."""
    return max(LEAST_FILES, limits.disk_bytes // BYTES_PER_FILE)


def settings(
    limits: SandboxLimits,
    spec: SandboxSpec,
    *,
    rlimits: Mapping[str, int],
    watch_memory_bytes: int,
    socket_bytes: int = 0,
    tcp_bytes: int = 0,
    path: str = PATH,
) -> Settings:
    """Settings for these limits; `rlimits` are added to those that every backend sets."""
    return {
        "workdir": str(workdir(spec)),
        "checkout": spec.checkout is not None,
        "disk_bytes": limits.disk_bytes,
        "environment": environment(spec, path=path),
        "output_bytes": limits.output_bytes,
        "tail_bytes": limits.tail_bytes,
        "rlimits": {
            "RLIMIT_FSIZE": limits.disk_bytes,
            "RLIMIT_NOFILE": limits.open_files or OPEN_FILES,
            **rlimits,
        },
        "watch_memory_bytes": watch_memory_bytes,
        "socket_bytes": socket_bytes,
        "tcp_bytes": tcp_bytes,
        "max_files": max_files(limits),
        "max_pids": limits.pids,
    }


@cache
def _program() -> str:
    folder = Path(inside.__file__).parent
    package = inside.__name__
    sources = {f"{package}.{name}": (folder / f"{name}.py").read_text() for name in MODULES}
    parts = package.split(".")
    packages = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return _BOOTSTRAP.format(sources=sources, packages=packages)


def keeper_argv(python: str, settings: Settings) -> Sequence[str]:
    """The command that starts the keeper with the interpreter `python` of the sandbox."""
    return [python, "-I", "-S", "-B", "-c", _program(), json.dumps(settings)]
