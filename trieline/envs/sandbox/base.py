"""The sandbox contract: what every backend promises to the environments that run untrusted programs in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

MAX_COMMAND = 100_000
"""Characters of all words of a command: Linux takes 128 KiB a word."""


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
    """Of the one writable folder, a tmpfs."""


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


class Sandbox(Protocol):
    """One isolated place: no network, read-only root, one bounded writable folder, an unprivileged user.

    Methods raise SandboxError when the sandbox itself fails (never because of what the program did).
    Any thread may call them, one at a time. `start` and `close` are idempotent. A sandbox belongs to the
    process that started it: a fork must not use it.
    """

    @property
    def workdir(self) -> PurePosixPath:
        """The writable folder, and the working directory of `exec`."""

    def start(self) -> None: ...

    def exec(
        self, argv: Sequence[str], *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> ExecResult:
        """Run one command to its end, or to the wall-clock limit. Leaves no process behind."""

    def read(self, path: str, *, max_bytes: int = 1024 * 1024) -> bytes:
        """A file of the writable folder, by its path there (relative or absolute); links are not followed.

        OSError for what is the program's doing: absent, a link, not a regular file, larger than `max_bytes`.
        """

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file of the writable folder, and folders above it. OSError as for `read`."""

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
