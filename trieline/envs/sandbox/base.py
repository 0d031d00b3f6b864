"""The sandbox contract: what every backend promises to the environments that run untrusted programs in it."""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import IO, Protocol

from trieline.envs.errors import SandboxError

MAX_COMMAND = 100_000
"""Characters of all words of a command and of its variables: Linux takes 128 KiB a word."""
NO_MORE_VARIABLES: Mapping[str, str] = MappingProxyType({})
MAX_USER = 65_534
"""The ids from here on mean nobody."""


TRY_SHELLS = ("sh", "-c", 'if command -v bash >/dev/null; then exec bash -lc "$0"; fi; exec sh -c "$0"')


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
    """Of stdout and of stderr each; the rest is read, thrown away, and counted in the result."""
    tail_bytes: int = 0
    """Of `output_bytes`, how many are for the end of the output. 0: only its start is kept."""
    disk_bytes: int = 64 * 1024 * 1024
    """Of the one writable folder, a tmpfs; with a checkout, of what is changed in it and of /tmp. Of a
    writable root: of each file, and of all that is changed, at which one looks every second while a program
    runs."""
    open_files: int | None = None
    """For each process. None: 256, or half of that under bubblewrap, where nobody counts what the kernel
    holds for pipes and epolls."""

    def __post_init__(self) -> None:
        if not 0 <= self.tail_bytes <= self.output_bytes:
            msg = f"expected tail_bytes of 0 to {self.output_bytes} (output_bytes), got {self.tail_bytes}"
            raise ValueError(msg)


WORKSPACE = SandboxLimits(
    wall_seconds=1800.0,
    memory_bytes=4 * 1024**3,
    cpus=2.0,
    pids=2048,
    output_bytes=256 * 1024,
    tail_bytes=128 * 1024,
    disk_bytes=4 * 1024**3,
    open_files=1024,
)
"""For the tests of a whole repository."""


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
    `checkout` or `writable_root`: with that, it must be in the image and starts as it is there. None: /work,
    or the temporary folder of a sandbox that isolates nothing."""
    checkout: str | None = None
    """A folder on this host, such as a repository, with whose files the work folder starts. It is never
    changed, and must not change meanwhile. bubblewrap only: see `bubblewrap.give`."""
    user: int | None = None
    """User and group id of all programs. 0 is a root without any capability, for what must write to files of
    root in a `writable_root`. None: 1000, or the user that runs Trieline if nothing is isolated."""
    writable_root: bool = False
    """May programs write wherever `user` may? What they change is thrown away with the sandbox: `reset` then
    starts a new one. False: in the work folder alone."""
    environment: tuple[tuple[str, str], ...] = ()
    """(name, value) of environment variables, beside PATH, HOME, TMPDIR and LANG, which they may replace."""
    shell: tuple[str, ...] = ()
    """Words of a command before the line of a shell. (): `bash -lc` where there is a bash, else `sh -c`."""

    @property
    def is_workspace(self) -> bool:
        """Is it for the programs of a whole repository?

        They get /tmp, /dev/shm and sockets at 127.0.0.1, and a reset replaces it.
        """
        return self.writable_root or self.checkout is not None

    def line(self, line: str) -> list[str]:
        """The command that runs a line of shell in a sandbox of this spec."""
        return [*(self.shell or TRY_SHELLS), line]

    def __post_init__(self) -> None:
        paths = (("workdir", self.workdir), ("folder", self.folder), ("checkout", self.checkout))
        for name, path in paths:
            if path is not None and (str(PurePosixPath(path)) != path or path[:1] != "/" or ".." in path):
                msg = f"expected an absolute path without '..' or a slash at its end as {name}, got {path!r}"
                raise ValueError(msg)
        if self.workdir == "/":
            msg = "expected a work folder below the root, got '/'"
            raise ValueError(msg)
        if self.user is not None and not 0 <= self.user < MAX_USER:
            msg = f"expected a user id of 0 to {MAX_USER - 1}, got {self.user}"
            raise ValueError(msg)
        check_environment(self.environment)


def check_environment(variables: Iterable[tuple[str, str]]) -> None:
    """ValueError for what can be no environment variable."""
    for variable, value in variables:
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
    over_disk: bool = False
    """A writable root grew beyond `disk_bytes`, and the sandbox ended. Elsewhere it is writing that fails."""
    stdout_left_out: int = 0
    """Bytes of stdout that are not here: those after its first `output_bytes - tail_bytes`."""
    stderr_left_out: int = 0
    seconds: float = 0.0

    @property
    def truncated(self) -> bool:
        return bool(self.stdout_left_out or self.stderr_left_out)


def check_command(
    argv: Sequence[str], stdin: bytes, environment: Mapping[str, str], limits: SandboxLimits
) -> None:
    """ValueError if no backend could run this."""
    check_environment(environment.items())
    words = [*argv, *environment.keys(), *environment.values()]
    if not argv or any("\0" in word for word in argv) or sum(map(len, words)) > MAX_COMMAND:
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
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        wall_seconds: float | None = None,
        environment: Mapping[str, str] = NO_MORE_VARIABLES,
    ) -> ExecResult:
        """Run one command to its end, or to the wall-clock limit. Leaves no process behind.

        `environment` is beside that of the spec, and before it.
        """

    def read(self, path: str, *, max_bytes: int = 1024 * 1024) -> bytes:
        """A file of the work folder, by its path there (relative or absolute); links are not followed.

        OSError for what is the program's doing: absent, a link, not a regular file, larger than `max_bytes`.
        """

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file of the work folder, and folders above it. OSError as for `read`."""

    def put(self, archive: IO[bytes], path: str = ".") -> None:
        """Unpack a tar, which nobody need trust, in a folder of the work folder. It is made if not there.

        Its files and links replace those that are there. ArchiveError for what `archives` does not let pass,
        and then nothing has changed; OSError as for `write`.
        """

    def get(self, out: IO[bytes], path: str = ".", *, max_bytes: int) -> None:
        """Write a tar of a folder of the work folder, with at most `max_bytes` of contents.

        ArchiveError for what `archives` does not let pass; OSError as for `read`.
        """

    def snapshot(self) -> "Snapshot":
        """The state of the files, from which new sandboxes can start.

        It costs what was changed in a checkout or a writable root, and a work folder that started empty.
        """

    def reset(self) -> None:
        """Back to the clean state of a new sandbox: no process, no file of the previous task."""

    def close(self) -> None: ...


class Snapshot(Protocol):
    """The files of a sandbox at one moment."""

    def start(self) -> Sandbox:
        """A new, independent sandbox in that state."""

    def close(self) -> None: ...


def fork(sandbox: Sandbox) -> Sandbox:
    """A new, independent sandbox in the state of this one, for a branch in the middle of an episode."""
    snapshot = sandbox.snapshot()
    try:
        return snapshot.start()
    finally:
        snapshot.close()
