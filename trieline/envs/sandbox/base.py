"""The sandbox contract: what every backend promises to the environments that run untrusted programs in it."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Protocol

from trieline.envs.errors import SandboxError

MAX_COMMAND = 100_000
"""Characters of all words of a command: Linux takes 128 KiB a word."""
MAX_USER = 65_534
"""The ids from here on mean nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxLimits:
    """Bounds on everything untrusted code could take."""

    wall_seconds: float = 10.0
    """For one `exec`, which may lower it; afterwards every process in the sandbox is killed."""
    memory_bytes: int = 256 * 1024 * 1024
    """Of all programs together; under Docker, the keeper (12 MB) and the writable folder count too."""
    cpus: float = 1.0
    """Docker only: without a control group nothing can bound it."""
    pids: int = 64
    output_bytes: int = 64 * 1024
    """Of stdout and of stderr each; the rest is read, thrown away, and reported as `truncated`."""
    disk_bytes: int = 64 * 1024 * 1024
    """Of the one writable folder, a tmpfs. Of a writable root: of each file, and of all that is changed, at
    which one looks every second while a program runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSpec:
    """What a sandbox is made of. A backend that can't honour a field refuses it by name: see `refuse`."""

    image: str | None = None
    """Name of an image that Docker Engine has, with python3 (3.9 or newer) in it. What the image says of
    environment variables does not count. None: `trieline/python:1`."""
    folder: str | None = None
    """A prepared root folder on this host, such as debootstrap makes, with python3 (3.9 or newer) in it; only
    read. None: the host's own /usr. bubblewrap only."""
    workdir: str | None = None
    """Absolute path of the work folder, the working directory of every `exec`. It starts empty, except with
    `writable_root`, where it must be in the image and starts as it is there. None: /work, or the temporary
    folder of a sandbox that isolates nothing."""
    user: int | None = None
    """User and group id of all programs. 0 is a root without any capability, for what must write to files of
    root in a `writable_root`. None: 1000, or the user that runs Trieline if nothing is isolated."""
    writable_root: bool = False
    """May programs write wherever `user` may? What they change is thrown away with the sandbox: `reset` then
    starts a new one. False: in the work folder alone."""
    environment: tuple[tuple[str, str], ...] = ()
    """(name, value) of environment variables, beside PATH, HOME, TMPDIR and LANG, which they may replace."""

    def __post_init__(self) -> None:
        for name, path in (("workdir", self.workdir), ("folder", self.folder)):
            if path is not None and (str(PurePosixPath(path)) != path or path[:1] != "/" or ".." in path):
                msg = f"expected an absolute path without '..' or a slash at its end as {name}, got {path!r}"
                raise ValueError(msg)
        if self.workdir == "/":
            msg = "expected a work folder below the root, got '/'"
            raise ValueError(msg)
        if self.user is not None and not 0 <= self.user < MAX_USER:
            msg = f"expected a user id of 0 to {MAX_USER - 1}, got {self.user}"
            raise ValueError(msg)
        for variable, value in self.environment:
            if not variable or "=" in variable or "\0" in variable + value:
                msg = f"expected the name and the value of an environment variable, got {(variable, value)}"
                raise ValueError(msg)


def refuse(spec: SandboxSpec, backend: str, **reasons: str) -> None:
    """SandboxError for a field that `spec` sets and `backend` can't honour; `reasons` by its name."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name in reasons and value != field.default:
            msg = (
                f"backend {backend} can't honour SandboxSpec.{field.name} = {value!r}: {reasons[field.name]}"
            )
            raise SandboxError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecResult:
    """What came of one command."""

    exit_code: int
    """As a shell reports it: 128 + signal number for a killed command."""
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    oom: bool = False
    truncated: bool = False
    seconds: float = 0.0


def check_command(argv: Sequence[str], stdin: bytes, limits: SandboxLimits) -> None:
    """ValueError if no backend could run this."""
    if not argv or any("\0" in word for word in argv) or sum(map(len, argv)) > MAX_COMMAND:
        got = str(list(argv))[:100]
        msg = f"expected a command of 1 to {MAX_COMMAND} characters without NUL, got {got}"
        raise ValueError(msg)
    if len(stdin) > limits.disk_bytes:
        msg = f"expected at most {limits.disk_bytes} bytes of stdin (disk_bytes), got {len(stdin)}"
        raise ValueError(msg)


def check_size(path: str, data: bytes, limits: SandboxLimits) -> None:
    """OSError if no backend could write this."""
    if len(data) > limits.disk_bytes:
        raise OSError(errno.ENOSPC, f"{len(data)} bytes are over the limit of {limits.disk_bytes}", path)


def wall_limit(wall_seconds: float | None, limits: SandboxLimits) -> float:
    """Of one `exec`, which may only lower it."""
    return limits.wall_seconds if wall_seconds is None else min(wall_seconds, limits.wall_seconds)


class Sandbox(Protocol):
    """One isolated place without network or capabilities.

    Unless its spec asks for more, its root is read-only, one bounded folder can be written, and the user is
    unprivileged.

    Methods raise SandboxError when the sandbox itself fails (never because of what the program did).
    Any thread may call them, one at a time. `start` and `close` are idempotent. A sandbox belongs to the
    process that started it: a fork must not use it.
    """

    @property
    def workdir(self) -> PurePosixPath:
        """The work folder, and the working directory of `exec`."""

    def start(self) -> None: ...

    def exec(
        self, argv: Sequence[str], *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> ExecResult:
        """Run one command to its end, or to the wall-clock limit. Leaves no process behind."""

    def read(self, path: str, *, max_bytes: int = 1024 * 1024) -> bytes:
        """A file of the work folder, by its path there (relative or absolute); links are not followed.

        OSError for what is the program's doing: absent, a link, not a regular file, larger than `max_bytes`.
        """

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file of the work folder, and folders above it. OSError as for `read`."""

    def snapshot(self) -> "Snapshot":
        """The state of the files, from which new sandboxes can start."""

    def reset(self) -> None:
        """Back to the clean state of a new sandbox: no process, no file of the previous task."""

    def close(self) -> None: ...


class Snapshot(Protocol):
    """The files of a sandbox at one moment."""

    def start(self) -> Sandbox:
        """A new, independent sandbox in that state."""

    def close(self) -> None: ...
