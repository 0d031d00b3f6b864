"""How the journal lies on the disk: segments of checked records, and a mark up to where they are safe.

A segment is 16 bytes of magic, then records: magic, payload length, CRC-32 of the payload, CRC-32 of those 12
bytes (each 4 bytes, little endian), then the payload: number of frames, length of each, and the frames of
`codec.encode`.

The mark, a file of its own, names the segment and the offset up to which everything was forced to the disk.
What does not check before it is corrupt. From there on it is what a crash or a power cut left unfinished:
pages reach the disk in any order, so a later record may be whole and an earlier one not. Journals of before
the mark have none: of them a record is unfinished if none follows it.
"""

import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trieline.wire.codec import MAX_FRAMES, InFrame, view
from trieline.wire.errors import JournalError, MessageError

log = logging.getLogger(__name__)

SEGMENT_MAGIC = b"TRIELINE-TREES-1"
RECORD_MAGIC = b"TREE"
MARK_FILE = "synced"
_MARK_MAGIC = b"SYNCED-1"
# Each followed by the CRC-32 of its bytes.
_RECORD = struct.Struct("<4sII")
_MARK = struct.Struct("<8sQQ")
_CRC_BYTES = 4
RECORD_HEADER_BYTES = _RECORD.size + _CRC_BYTES
_NAME = re.compile(r"trees-([0-9]+)\.journal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One file of the journal."""

    path: Path
    first_record: int
    synced: int | None
    """Everything before this offset was forced to the disk; None: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record that checks."""

    offset: int
    end: int
    payload: bytes


def segment_path(folder: Path, first_record: int) -> Path:
    """Where the segment lies that begins with this record."""
    return folder / f"trees-{first_record:012d}.journal"


def list_segments(folder: Path) -> list[Segment]:
    """The segments, in order; empty if there is no journal.

    Raises:
        JournalError: one is missing whose absence can be seen without reading the others.
    """
    # Before the names: a writer that goes on meanwhile only ever moves it forwards.
    mark = _read_mark(folder)
    found = {int(m[1]): path for path in folder.glob("trees-*") if (m := _NAME.fullmatch(path.name))}
    numbers = sorted(found)
    for needed in (0, mark[0] if mark else 0):
        if needed not in found and (found or mark):
            msg = f"expected the segment that begins with record {needed} in {folder}, found none"
            raise JournalError(msg)
    segments = []
    for number in numbers:
        synced: int | None = None
        if number != numbers[-1]:
            synced = found[number].stat().st_size  # the next one is begun when all of this one is safe
        elif mark is not None:
            # A mark that names an earlier segment knows nothing of this one.
            synced = mark[1] if mark[0] == number else 0
        segments.append(Segment(path=found[number], first_record=number, synced=synced))
    return segments


def read_records(segment: Segment) -> Iterator[Record]:
    """The records of a segment, each checked, up to what a crash left unfinished.

    Raises:
        JournalError: what was safe on the disk does not check, or can't be read.
    """
    try:
        with segment.path.open("rb") as file:
            yield from _read_records(segment, file)
    except OSError as error:
        msg = f"can't read {segment.path}: {error}"
        raise JournalError(msg) from error


def record_bytes(frames: Sequence[InFrame]) -> bytes:
    """One record of the frames of a message. Raises JournalError: it is too large for one."""
    payload = payload_of(frames)
    return _sealed(_RECORD.pack(RECORD_MAGIC, len(payload), zlib.crc32(payload))) + payload


def payload_of(frames: Sequence[InFrame]) -> bytes:
    """The frames of a message in one piece, for `frames_of`. Raises JournalError: it is too large for one."""
    parts = [view(frame) for frame in frames]
    lengths = [memoryview(part).nbytes for part in parts]
    size = 4 * (1 + len(parts)) + sum(lengths)
    if size >= 1 << 32:
        msg = f"expected a record of less than 4 GiB, got {size} bytes"
        raise JournalError(msg)
    return b"".join([struct.pack(f"<{1 + len(parts)}I", len(parts), *lengths), *parts])


def frames_of(payload: bytes) -> list[memoryview]:
    """The frames in a record's payload. Raises MessageError if they are not what it says."""
    (count,) = struct.unpack_from("<I", payload) if len(payload) >= 4 else (0,)
    begin = 4 * (1 + count)
    if not 1 <= count <= MAX_FRAMES or begin > len(payload):
        msg = f"expected 1 to {MAX_FRAMES} frames in {len(payload)} bytes, got {count}"
        raise MessageError(msg)
    lengths = struct.unpack_from(f"<{count}I", payload, 4)
    if begin + sum(lengths) != len(payload):
        msg = f"expected frames of {len(payload) - begin} bytes together, got {sum(lengths)}"
        raise MessageError(msg)
    frames, whole = [], memoryview(payload)
    for length in lengths:
        frames.append(whole[begin : begin + length])
        begin += length
    return frames


def corrupt(segment: Segment, offset: int, expected: str, got: str) -> JournalError:
    """The error of a place that does not check."""
    return JournalError(f"corrupt journal: {segment.path} at offset {offset}: expected {expected}, got {got}")


class SyncedMark:
    """The writer's end of the mark."""

    def __init__(self, folder: Path) -> None:
        """Open the file, made if it is not there."""
        # Each write is on the disk when it returns.
        self._descriptor = os.open(folder / MARK_FILE, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o644)

    def move(self, first_record: int, offset: int) -> None:
        """Everything before `offset` in the segment that begins with this record is on the disk."""
        # Well within one sector, which is written whole or not at all.
        os.pwrite(self._descriptor, _sealed(_MARK.pack(_MARK_MAGIC, first_record, offset)), 0)

    def close(self) -> None:
        """To be called once."""
        os.close(self._descriptor)


def _read_mark(folder: Path) -> tuple[int, int] | None:
    """First record of the segment, and the offset in it. None: there is none, or it is damaged."""
    path = folder / MARK_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"can't read {path}: {error}"
        raise JournalError(msg) from error
    if (fields := _unsealed(_MARK, _MARK_MAGIC, data)) is not None:
        first_record, offset = fields
        return first_record, offset
    log.warning("%s is damaged: how much of the journal is safe on the disk is not known", path)
    return None


def _sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def _unsealed(layout: struct.Struct, magic: bytes, data: bytes) -> tuple[int, int] | None:
    """What stands in `data` after the magic; None if it is not what `_sealed` made."""
    if len(data) != layout.size + _CRC_BYTES or _sealed(data[:-_CRC_BYTES]) != data:
        return None
    found, first, second = layout.unpack(data[:-_CRC_BYTES])
    return (first, second) if found == magic else None


class _Unfinished(Exception):
    """What stands at a place is no record that checks."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got


def _read_records(segment: Segment, file: BinaryIO) -> Iterator[Record]:
    size, offset = os.fstat(file.fileno()).st_size, 0
    try:
        if (magic := file.read(len(SEGMENT_MAGIC))) != SEGMENT_MAGIC:
            expected = f"the magic {SEGMENT_MAGIC!r}"
            raise _Unfinished(expected, repr(magic))
        while (offset := file.tell()) < size:
            payload = _read_payload(file, size - offset)
            yield Record(offset=offset, end=file.tell(), payload=payload)
        if segment.synced is not None and segment.synced > size:
            expected = f"{segment.synced} bytes that were safe on the disk"
            raise _Unfinished(expected, str(size))
    except _Unfinished as problem:
        if segment.synced is None:
            torn = not _record_follows(file, offset) and (offset > 0 or SEGMENT_MAGIC.startswith(magic))
        else:
            torn = offset >= segment.synced
        if not torn:
            raise corrupt(segment, offset, problem.expected, problem.got) from None
        log.warning("%s: an unfinished record at offset %d is passed over", segment.path, offset)


def _read_payload(file: BinaryIO, left: int) -> bytes:
    """The next record's payload, checked; `left` bytes are left in the file."""
    header = file.read(RECORD_HEADER_BYTES)
    if (fields := _unsealed(_RECORD, RECORD_MAGIC, header)) is None:
        expected = "a record header with a matching checksum"
        raise _Unfinished(expected, header.hex())
    length, crc = fields
    if RECORD_HEADER_BYTES + length > left:
        expected = f"a payload of {length} bytes"
        raise _Unfinished(expected, str(left - RECORD_HEADER_BYTES))
    payload = file.read(length)
    if (found := zlib.crc32(payload)) != crc:
        expected = f"a payload with CRC-32 {crc:08x}"
        raise _Unfinished(expected, f"{found:08x}")
    return payload


def _record_follows(file: BinaryIO, offset: int) -> bool:
    """Whether a record begins anywhere after `offset`."""
    file.seek(offset + 1)
    rest = file.read()
    at = -1
    while (at := rest.find(RECORD_MAGIC, at + 1)) >= 0:
        if _unsealed(_RECORD, RECORD_MAGIC, rest[at : at + RECORD_HEADER_BYTES]) is not None:
            return True
    return False
