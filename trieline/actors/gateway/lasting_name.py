"""The name of a gateway that keeps its sessions: the learner knows it by that over restarts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trieline.actors.errors import GatewayRecordError
from trieline.common.file_lock import try_lock
from trieline.common.folders import write_whole
from trieline.common.process_name import new_process_name

FILE = "name"
LOCK = "lock"
MAX_NAME = 256


@contextmanager
def lasting_name(folder: Path) -> Iterator[str]:
    """The name of the gateway whose sessions a folder has; a new one if it has none. No other uses it inside.

    Raises:
        GatewayRecordError: another gateway does, or the folder can't be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as held:
            if not try_lock(held.fileno()):
                msg = f"expected to be the only gateway that keeps sessions in {folder}, but another one does"
                raise GatewayRecordError(msg)
            if not (folder / FILE).exists():
                write_whole(folder / FILE, new_process_name().encode())
            name = (folder / FILE).read_bytes()
            if not (name.isascii() and name.decode().isprintable() and 0 < len(name) <= MAX_NAME):
                msg = f"expected the name of a gateway in {folder / FILE}, got {name[:80]!r}"
                raise GatewayRecordError(msg)
            yield name.decode()
    except OSError as error:
        msg = f"can't keep sessions in {folder}: {error.strerror or error}"
        raise GatewayRecordError(msg) from error
