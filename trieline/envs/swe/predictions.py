"""Predictions: the patch that a model submits for each task, in every form that is published.

Files are `.jsonl`, `.json` with a list, `.json` with records or bare patches by id (`preds.json`), or one
record (`.pred`). Whatever is wrong with a record is a message, and the rest is graded. As in the official
harness the last of two records of one id counts, and a patch that is empty or missing is never run. Empty
lines, byte-order marks and ids that the data does not have end the official run, not this one.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trieline.common.errors import about_file
from trieline.common.text import shortened
from trieline.envs.datasets.records import Record, parsed, read_records, said
from trieline.envs.errors import DataError

UNKNOWN_MODEL = "unknown"
"""The model of a record that names none."""
MOST_MESSAGES = 200
"""Of the others there is the number."""
MOST_KEYS = 20
"""Keys that are not read and named all the same."""
_TAIL_BYTES = 1 << 16

_KEYS = ("instance_id", "model_name_or_path", "model_patch")
_MISTAKEN = {"model": "model_name_or_path", "prediction": "model_patch", "patch": "model_patch"}
"""Keys that once stood in the official documentation (SWE-bench issue 404), or that tools write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What one model submits for one task."""

    instance_id: str
    model_name_or_path: str
    model_patch: str
    """A git diff; empty: nothing was submitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Those of one file."""

    by_id: Mapping[str, Prediction]
    """By instance id, in the order of their first records. All ids are known ones."""
    messages: tuple[str, ...]
    """What was wrong in the file, a line each, with its place."""

    @property
    def empty_patch_ids(self) -> tuple[str, ...]:
        """Ids without a patch, which are not run, sorted."""
        return tuple(sorted(p.instance_id for p in self.by_id.values() if not p.model_patch))


def read_predictions(path: Path, known_ids: Collection[str]) -> Predictions:
    """The predictions in one file.

    Args:
        path: the file.
        known_ids: of the tasks; those of others are named in a message and left out.

    Raises:
        DataError: the file as a whole can't be read.
        OSError: it can't be opened; names the file.
    """
    reader = _Reader(frozenset(known_ids))
    for record in read_records(path):
        reader.add(record)
    return Predictions(by_id=reader.by_id, messages=reader.all_messages())


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Append a record to a `.jsonl` file, on the disk when this returns.

    A crash in the middle leaves half a line at the end, which the next call takes away, so that the official
    tools can read the file. One process writes at a time. Raises OSError.
    """
    line = json.dumps({key: getattr(prediction, key) for key in _KEYS}).encode("ascii") + b"\n"
    with about_file(path), path.open("a+b") as file:
        half = _last_half_line(file)
        if half and _is_whole(half):
            line = b"\n" + line
        elif half:
            file.truncate(file.seek(0, os.SEEK_END) - len(half))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _last_half_line(file: BinaryIO) -> bytes:
    """What follows the last line end of the file."""
    position, tail = file.seek(0, os.SEEK_END), b""
    while position and b"\n" not in tail:
        step = min(position, _TAIL_BYTES)
        position = file.seek(position - step)
        tail = file.read(step) + tail
    return tail.rpartition(b"\n")[2]


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(parsed(line), dict)
    except DataError:
        return False


class _Reader:
    """Takes records as they come and keeps what is wrong with them."""

    def __init__(self, known_ids: frozenset[str]) -> None:
        self.by_id: dict[str, Prediction] = {}
        self._known_ids = known_ids
        self._places: dict[str, str] = {}
        self._messages: list[str] = []
        self._others = 0
        self._unread: Counter[str] = Counter()

    def all_messages(self) -> tuple[str, ...]:
        """Those of single records, then what holds for several."""
        unread = [
            f"the key {shortened(key, 100)!r} of {count:,} records is not read"
            for key, count in self._unread.most_common(MOST_KEYS)
        ]
        others = [f"{self._others:,} more messages are not shown"] if self._others else []
        return (*self._messages, *others, *unread)

    def add(self, record: Record) -> None:
        """Take one record, or say why not."""
        value = record.value
        if record.problem is not None:
            self._say(record, record.problem)
            return
        if isinstance(value, str) and record.key is not None:
            value = {"model_patch": value, "model_name_or_path": UNKNOWN_MODEL}
        if not isinstance(value, dict):
            self._say(record, f"expected an object with the keys {', '.join(_KEYS)}, got {said(value)}")
            return
        instance_id = value.get("instance_id", record.key)
        if not isinstance(instance_id, str) or not instance_id:
            self._say(record, f"instance_id: expected text, got {said(instance_id)}")
            return
        shown = repr(shortened(instance_id, 100))
        if record.key is not None and record.key != instance_id:
            self._say(record, f"instance_id: expected the key of the record, got {shown}, which is taken")
        if instance_id not in self._known_ids:
            self._say(record, f"instance_id: expected a task of the data, got {shown}; it is left out")
            return
        if instance_id in self.by_id:
            self._say(record, f"repeats {shown} of {self._places[instance_id]}; the last one counts")
        self._places[instance_id] = record.place
        self.by_id[instance_id] = self._prediction(record, instance_id, value)

    def _prediction(self, record: Record, instance_id: str, value: dict[str, Any]) -> Prediction:
        self._unread.update(key for key in value if key not in _KEYS)
        instead = {_MISTAKEN[key]: key for key in value if key in _MISTAKEN}
        texts = {}
        for key, otherwise in (("model_name_or_path", UNKNOWN_MODEL), ("model_patch", "")):
            text = value.get(key)
            if not isinstance(text, str) or (not text and key == "model_name_or_path"):
                hint = f" (it has {instead[key]!r})" if text is None and key in instead else ""
                taken = f"{otherwise!r} is taken" if otherwise else "the patch counts as empty"
                self._say(record, f"{key}: expected text, got {said(text)}{hint}; {taken}")
                text = otherwise
            texts[key] = text
        return Prediction(instance_id=instance_id, **texts)

    def _say(self, record: Record, message: str) -> None:
        if len(self._messages) < MOST_MESSAGES:
            self._messages.append(f"{record.place}: {message}")
        else:
            self._others += 1
