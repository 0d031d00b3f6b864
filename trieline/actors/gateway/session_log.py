"""Sessions on the disk: a file each, a line of JSON for each event, written before anybody is told of it.

A process that was killed reads them when it starts again and goes on. What it was writing then is an
unfinished last line, which nobody was told of, and is cut off.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from trieline.actors.errors import GatewayRecordError
from trieline.actors.gateway.exchange import Event, Opened
from trieline.actors.gateway.session import Session
from trieline.common.arrays import Float32, Int32

log = logging.getLogger(__name__)

_SessionId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]

SUFFIX = ".session.jsonl"
OVER = ".over.json"
"""Names the sessions of a group that are being forgotten."""


class SessionLog:
    """The files of all open sessions in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises GatewayRecordError: it can't be made."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"expected a folder for sessions at {folder}: {error.strerror}"
            raise GatewayRecordError(msg) from error

    def append(self, session_id: str, event: Event) -> None:
        """It is in the operating system's hands on return.

        Raises:
            GatewayRecordError: it can't be written; the file is as it was before.
        """
        line = _ENCODER.encode(event) + b"\n"
        path = self._path(session_id)
        try:
            # Opened for each: thousands of sessions would hold more files than a process may. Unbuffered:
            # what fails leaves nothing behind that a later write would flush.
            with open(path, "ab", buffering=0, opener=_closed_to_others) as file:
                start = os.fstat(file.fileno()).st_size
                if (written := file.write(line)) != len(line):
                    os.ftruncate(file.fileno(), start)
                    msg = f"expected to write {len(line)} bytes to {path}, wrote {written}"
                    raise GatewayRecordError(msg)
        except OSError as error:
            msg = f"can't write {path}: {error.strerror}"
            raise GatewayRecordError(msg) from error

    def sessions(self) -> Iterator[Session]:
        """Those of before, with all of their events, the oldest first.

        Raises:
            GatewayRecordError: a file holds something else.
        """
        for note in self._folder.glob(f"*{OVER}"):
            self._forget_noted(note)
        paths = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths:
            session = _read(path)
            if session is None:
                path.unlink()  # killed before it was opened: nobody was told of it
            else:
                yield session

    def forget(self, session_ids: Sequence[str]) -> None:
        """What came of these sessions is safe elsewhere. Killed in between, it goes on at the next start.

        Idempotent.
        """
        try:
            if len(session_ids) < 2:
                self._remove(session_ids)
                return
            note = self._folder / f"{session_ids[0]}{OVER}"
            note.write_bytes(msgspec.json.encode(session_ids))
            self._remove(session_ids)
            note.unlink(missing_ok=True)
        except OSError as error:
            log.warning("can't remove sessions that are over from %s: %s", self._folder, error.strerror)

    def _forget_noted(self, note: Path) -> None:
        try:
            self._remove(msgspec.json.decode(note.read_bytes(), type=list[_SessionId]))
        except msgspec.MsgspecError:
            log.warning("%s was not written to its end: none of its sessions is gone", note)
        note.unlink(missing_ok=True)

    def _remove(self, session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            self._path(session_id).unlink(missing_ok=True)

    def _path(self, session_id: str) -> Path:
        return self._folder / f"{session_id}{SUFFIX}"


def _closed_to_others(path: str, flags: int) -> int:
    """The keys of sessions are in it, and with them perhaps the gateway's own."""
    return os.open(path, flags, 0o600)


def _read(path: Path) -> Session | None:
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        log.warning("%s: cut off %d bytes of an unfinished event", path, len(data) - len(whole))
        os.truncate(path, len(whole))
    session: Session | None = None
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            event: Event = _DECODER.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            msg = f"{path}, line {number}: expected an event of a session, got: {error}"
            raise GatewayRecordError(msg) from error
        if session is None:
            if not isinstance(event, Opened):
                msg = f"{path}: expected the opening of a session first, got {type(event).__name__}"
                raise GatewayRecordError(msg)
            session = Session(opened=event)
        else:
            session.apply(event)
    return session


def _list_of(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    msg = f"expected arrays and plain values, got {type(value).__name__}"
    raise TypeError(msg)


def _array_of(kind: Any, value: object) -> Any:
    dtype = {Int32: np.int32, Float32: np.float32}[kind]
    return np.asarray(value, dtype=dtype)


_ENCODER = msgspec.json.Encoder(enc_hook=_list_of)
_DECODER = msgspec.json.Decoder(Event, dec_hook=_array_of)
