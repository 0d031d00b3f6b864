"""Temporary folders that say whose they are, so that those of a killed process can be told and swept.

<temporary folder>/trieline-sandbox-XXXXXXXX/
    owner -> the words of `owner.this_process()`, as the target of a link: made and read in one step
    files/   what it is for
"""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import owner
from trieline.envs.sandbox.inside import files

logger = logging.getLogger(__name__)

PREFIX = "trieline-sandbox-"


def make() -> Path:
    """A new, empty folder of this process. `remove` removes it. The first call sweeps those of dead ones."""
    try:
        _sweep_once(os.getpid())
        outer = Path(tempfile.mkdtemp(prefix=PREFIX))
        (outer / "owner").symlink_to(owner.this_process())
        (outer / "files").mkdir(mode=0o700)
    except OSError as error:
        msg = f"could not make a temporary folder: {error}"
        raise SandboxError(msg) from error
    return outer / "files"


def remove(folder: Path) -> None:
    """Remove what `make` gave, whatever its permissions and depth. Logged if it can't be."""
    try:
        if folder.is_dir() and not folder.is_symlink():  # a program may have put a link in its place
            folder.chmod(0o700)
            files.wipe(str(folder))
        shutil.rmtree(folder.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("could not remove %s: %s", folder.parent, error)


@cache
def _sweep_once(_pid: int) -> None:
    sweep()


def sweep() -> int:
    """End the programs and remove the folders of processes of this user that are gone. Returns how many."""
    swept = 0
    for outer in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another user could have made a folder of that name, or be about to take this one's place.
        with suppress(OSError):
            if outer.lstat().st_uid == os.geteuid() and owner.is_gone(str((outer / "owner").readlink())):
                logger.info("removing %s, whose owner is gone", outer)
                _end_programs_in(outer / "files")
                remove(outer / "files")
                swept += 1
    return swept


def _end_programs_in(folder: Path) -> None:
    """Programs of this user that were started there: it is their TMPDIR, and nobody else's."""
    for pid in _mine():
        with suppress(OSError):
            process = os.pidfd_open(pid)
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if b"TMPDIR=" + os.fsencode(folder) in variables:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)


def _mine() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                yield int(entry.name)
