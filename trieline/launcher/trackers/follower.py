"""A tracker is given the records of a run as they come, each once, however often it fails or starts anew.

What is sent is noted in `trackers/NAME.json`. One that dies between a record and its note sends it again.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trieline.common.folders import write_whole
from trieline.launcher.run_folder import MetricsTail, RunFolder
from trieline.launcher.trackers.tracker import FOLDER, Tracker

log = logging.getLogger(__name__)

POLL_S = 1.0
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
# A record that the tracker refuses, while it can be opened, is not worth the others.
MOST_ATTEMPTS = 3


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """How far a tracker has come."""

    until: float = 0.0
    """Seconds since the epoch: the `time` of the newest record that it has."""
    records: int = 0
    left_out: int = 0
    """Records that it refused."""
    trouble: str = ""
    """Why it has not come further, if it could not."""


class Follower:
    """Sends the records of one run to one tracker."""

    def __init__(
        self, folder: RunFolder, name: str, open_tracker: Callable[[], Tracker], *, stop: threading.Event
    ) -> None:
        self._name = name
        self._open = open_tracker
        self._stop = stop
        self._path = sent_file(folder, name)
        self._sent = read_sent(self._path)
        self._tail = MetricsTail(folder.metrics, since=self._sent.until)
        self._records: deque[Mapping[str, Any]] = deque()
        self._attempts = 0
        self._tracker: Tracker | None = None

    def run(self, *, follow: bool) -> bool:
        """Send what is there; with `follow`, what comes until `stop` is set. False: some was not sent."""
        pause = FIRST_PAUSE_S
        while True:
            # Read before the look at `stop`: what was there when it was set is sent.
            stopping = self._stop.is_set() or not follow
            self._records.extend(self._tail.read())
            if self._try():
                pause = FIRST_PAUSE_S
                if stopping:
                    return self._end()
                self._stop.wait(POLL_S)
            elif self._stop.is_set() or (stopping and pause >= MOST_PAUSE_S):
                self._end()
                return False
            else:
                self._stop.wait(pause)
                pause = min(MOST_PAUSE_S, 2 * pause)

    def _try(self) -> bool:
        """Send what waits. False: the tracker failed; it is opened anew the next time."""
        try:
            if self._tracker is None and self._records:
                self._tracker = self._open()
            while self._records:
                record = self._records[0]
                figures = figures_of(record)
                if figures and self._tracker is not None:
                    self._attempts += 1
                    self._tracker.send(int(record["step"]), figures)
                self._note(record, left_out=False)
        except Exception as error:
            log.exception("%s takes nothing now, %d records wait", self._name, len(self._records))
            self._fail(f"{type(error).__name__}: {error}")
            return False
        return True

    def _fail(self, trouble: str) -> None:
        self._sent = msgspec.structs.replace(self._sent, trouble=trouble[:500])
        self._write()
        self._close()
        if self._attempts >= MOST_ATTEMPTS and self._records:
            log.warning("%s refused the record of step %s: left out", self._name, self._records[0]["step"])
            self._note(self._records[0], left_out=True)

    def _note(self, record: Mapping[str, Any], *, left_out: bool) -> None:
        self._records.popleft()
        self._attempts = 0
        sent = self._sent
        self._sent = Sent(
            until=record["time"], records=sent.records + (not left_out), left_out=sent.left_out + left_out
        )
        self._write()

    def _write(self) -> None:
        write_whole(self._path, msgspec.json.encode(self._sent))

    def _end(self) -> bool:
        return self._close() and not self._records

    def _close(self) -> bool:
        tracker, self._tracker = self._tracker, None
        try:
            if tracker is not None:
                tracker.close()
        except Exception:
            log.exception("%s could not be closed", self._name)
            return False
        return True


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """What a tracker draws: the finite numbers of a record, but for its step and time."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name not in {"step", "time"} and math.isfinite(value)
    }


def sent_file(folder: RunFolder, name: str) -> Path:
    """Where it is noted how far a tracker has come."""
    return folder.path / FOLDER / f"{name}.json"


def read_sent(path: Path) -> Sent:
    """What is noted there; nothing is sent yet if there is no such file, or none of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sent)
    except (OSError, msgspec.MsgspecError):
        return Sent()


def unsent(folder: RunFolder, name: str) -> int:
    """How many records of a run the tracker lacks."""
    until = read_sent(sent_file(folder, name)).until
    return sum(record["time"] > until for record in folder.read_metrics())
