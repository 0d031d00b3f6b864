"""Records out of files of JSON as the field exchanges them, one at a time, each with its place for messages.

Taken are JSON Lines and whole documents (a list, or an object of records by id), in UTF-8 with or without a
byte-order mark, with line ends of either kind, packed by gzip or not. `NaN`, which pandas writes for a value
that is missing, comes as the float that it is.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from trieline.common.text import shortened
from trieline.envs.errors import DataError

MOST_FILE_BYTES = 4 * 2**30
MOST_LINE_BYTES = 256 * 2**20
"""Larger than any row that was seen, and than a patch of 100 MB, which is refused by its own size."""

_MARK = b"\xef\xbb\xbf"
_SUFFIXES = {".jsonl": True, ".ndjson": True, ".json": False, ".pred": False}
"""Whether a file of this name has a record in every line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record, or what is wrong with it."""

    place: str
    """`line 3` (from 1), `record 3` of a list (from 1), `record 'key'` of an object."""
    key: str | None = None
    """In an object of records."""
    value: Any = None
    problem: str | None = None
    """It can't be read; `value` is None then."""


def is_json_file(path: Path) -> bool:
    """Whether the name of the file says that `read_records` may take it."""
    return _kind(path) in _SUFFIXES


def read_records(path: Path) -> Iterator[Record]:
    """The records of one file, in order. An object that holds `instance_id` is one record, not many.

    Raises:
        DataError: the file as a whole can't be read.
        OSError: it can't be opened; names the file.
    """
    if not is_json_file(path):
        msg = f"expected a file named {', '.join(_SUFFIXES)}, packed by gzip (.gz) or not, got {path}"
        raise DataError(msg)
    if (size := path.stat().st_size) > MOST_FILE_BYTES:
        msg = f"{path}: expected at most {MOST_FILE_BYTES:,} bytes, got {size:,}"
        raise DataError(msg)
    try:
        with _opened(path) as file:
            if _SUFFIXES[_kind(path)]:
                yield from _lines(file)
                return
            data = file.read(MOST_FILE_BYTES + 1)
            file.seek(0)
            yield from _document(path, data) or _lines(file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{path}: expected a whole file of gzip: {error}"
        raise DataError(msg) from error


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lines(file: BinaryIO) -> Iterator[Record]:
    """One record a line; empty lines are none."""
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        place, whole = f"line {number}", line.endswith(b"\n")
        if len(line) > MOST_LINE_BYTES:
            while not whole and (rest := file.readline(MOST_LINE_BYTES)):
                whole = rest.endswith(b"\n")
            yield Record(place=place, problem=f"expected at most {MOST_LINE_BYTES:,} bytes, got more")
            continue
        line = line.removeprefix(_MARK) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield Record(place=place, value=parsed(line))
        except DataError as error:
            cut = "" if whole else " (the last line, and without an end: it was cut off)"
            yield Record(place=place, problem=f"{error}{cut}")


def _document(path: Path, data: bytes) -> list[Record] | None:
    """All records of a whole document; None: it holds one a line after all."""
    if len(data) > MOST_FILE_BYTES:
        msg = f"{path}: expected at most {MOST_FILE_BYTES:,} bytes once unpacked, got more"
        raise DataError(msg)
    try:
        value = parsed(data.removeprefix(_MARK))
    except DataError as error:
        first_line = data.removeprefix(_MARK).lstrip().partition(b"\n")[0]
        if first_line.startswith(b"{") and _is_json(first_line):
            return None
        msg = f"{path}: {error}"
        raise DataError(msg) from error
    if isinstance(value, list):
        return [Record(place=f"record {n}", value=v) for n, v in enumerate(value, start=1)]
    if isinstance(value, dict) and "instance_id" in value:
        return [Record(place="record 1", value=value)]
    if isinstance(value, dict):
        return [Record(place=f"record {shortened(k, 100)!r}", key=k, value=v) for k, v in value.items()]
    msg = f"{path}: expected a list or an object of records, got {said(value)}"
    raise DataError(msg)


def _is_json(data: bytes) -> bool:
    try:
        parsed(data)
    except DataError:
        return False
    return True


def parsed(data: bytes) -> Any:
    """The value in `data`. Raises DataError."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        msg = f"expected UTF-8, got the byte 0x{data[error.start]:02x} at byte {error.start + 1:,}"
        raise DataError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"expected JSON, got something else: {shortened(error, 200)}"
        raise DataError(msg) from error


def said(value: object) -> str:
    """What a value is, in a message about it."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {shortened(value, 60)!r}"
    if isinstance(value, (bool, int, float)):
        return f"the {'number ' if not isinstance(value, bool) else ''}{shortened(value, 60)}"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"
