"""The journal: every accepted tree, in the order of acceptance, in append-only segments of the wire's frames.

Records are numbered from 0 over all segments, and trees are trained in that order. "How many records have the
steps so far taken" is therefore all that a checkpoint needs to know: a resumed run goes on with the next one,
trains on no tree twice and loses none.

A segment is 16 bytes of magic, then records: magic, payload length, CRC-32 of the payload, CRC-32 of those 12
bytes (each 4 bytes, little endian), then the payload: number of frames, length of each, and the frames of
`codec.encode`. Each append is handed to the operating system before it returns, so a crash of the process
loses nothing that was acknowledged; it is forced to the disk every `fsync_s` seconds and by `sync`, so that a
power cut loses at most that. A crashed writer may leave half a record at the end of the last segment: readers
pass over it, the next writer cuts it off. Anything else that does not check is an error.
"""

import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trieline.common.file_lock import try_lock
from trieline.wire.codec import decode, encode
from trieline.wire.errors import JournalError, MessageError
from trieline.wire.messages import TreeDelivery

log = logging.getLogger(__name__)

WRITER_FILE = "writer.lock"
SEGMENT_MAGIC = b"TRIELINE-TREES-1"
RECORD_MAGIC = b"TREE"
_HEADER = struct.Struct("<4sIII")
_HEADER_CRC_BYTES = 12


class Journal:
    """Appends to the journal in a folder. Any thread may call it; a second writer is refused."""

    def __init__(self, folder: Path, *, segment_bytes: int = 64 * 1024 * 1024, fsync_s: float = 1.0) -> None:
        """Open the folder (made if it is not there) and cut off what a crashed writer left unfinished.

        Raises:
            JournalError: somebody else writes it, the last segment is corrupt, or it can't be written.
        """
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._fsync_s = fsync_s
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()
        self._timer: threading.Timer | None = None
        self._not_forced: OSError | None = None
        """What went wrong when trees were to be forced to the disk. Stays: the system tells it only once."""
        self._file: BinaryIO | None = None
        with ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _hold(opened.enter_context((folder / WRITER_FILE).open("ab")), folder)
                self.num_records = self._open_last_segment()
            except OSError as error:
                msg = f"can't write the journal in {folder}: {error}"
                raise JournalError(msg) from error
            self._held = opened.pop_all()

    def append(self, delivery: TreeDelivery) -> int:
        """Write one tree; it is in the operating system's hands on return. Returns its record number.

        Raises:
            JournalError: it could not be written (the journal is as it was before), or what was written
                before could not be forced to the disk.
        """
        payload = _payload(delivery)
        with self._lock:
            file = self._open_file()
            start = file.tell()
            try:
                if start > len(SEGMENT_MAGIC) and start + len(payload) > self._segment_bytes:
                    file = self._next_segment(file)
                    start = file.tell()
                _write_all(file, _record_header(payload) + payload)
                self._sync_in_time(file)
            except (OSError, RuntimeError) as error:  # a thread could not be started
                file.truncate(start)
                file.seek(start)
                msg = f"can't append to {file.name} at offset {start}: {error}"
                raise JournalError(msg) from error
            self.num_records += 1
            return self.num_records - 1

    def sync(self) -> None:
        """Force everything to the disk. Raises JournalError."""
        with self._lock:
            file = self._open_file()
            with suppress(OSError):  # told by the next line
                self._sync(file)
            self._expect_forced()

    def close(self) -> None:
        """Sync and close. Idempotent. Raises JournalError if some trees may not be on the disk."""
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            with self._held, file, suppress(OSError):
                self._sync(file)
            self._expect_forced()

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            msg = f"the journal in {self._folder} is closed"
            raise JournalError(msg)
        self._expect_forced()
        return self._file

    def _expect_forced(self) -> None:
        if self._not_forced is not None:
            msg = f"can't force the journal in {self._folder} to the disk: {self._not_forced}"
            raise JournalError(msg) from self._not_forced

    def _sync_in_time(self, file: BinaryIO) -> None:
        """Sync if it is due, else see to it that it is done when it will be."""
        wait_s = self._synced_at + self._fsync_s - time.monotonic()
        if wait_s <= 0:
            self._sync(file)
        elif self._timer is None:
            timer = threading.Timer(wait_s, self._sync_late)
            timer.daemon = True
            timer.start()
            self._timer = timer

    def _sync_late(self) -> None:
        with self._lock, suppress(OSError):  # told by the next call
            if self._file is not None:
                self._sync(self._file)

    def _sync(self, file: BinaryIO) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            os.fsync(file.fileno())
        except OSError as error:
            self._not_forced = error
            raise
        self._synced_at = time.monotonic()

    def _next_segment(self, file: BinaryIO) -> BinaryIO:
        self._sync(file)
        self._file = self._create_segment(self.num_records)
        file.close()
        return self._file

    def _create_segment(self, first_record: int) -> BinaryIO:
        path = _segment_path(self._folder, first_record)
        # Unbuffered: a write that fails leaves nothing behind that a later one would flush.
        file = path.open("w+b", buffering=0)
        try:
            _write_all(file, SEGMENT_MAGIC)
            _sync_folder(self._folder)
        except OSError:
            file.close()
            path.unlink()
            raise
        return file

    def _open_last_segment(self) -> int:
        """Open the file to append to; returns the number of records in the journal."""
        segments = _segments(self._folder)
        if not segments:
            self._file = self._create_segment(0)
            return 0
        last = segments[-1]
        records = list(_scan(last, last=True))
        end = records[-1].end if records else len(SEGMENT_MAGIC)
        size = last.path.stat().st_size
        if size < end:  # not even the magic was finished
            self._file = self._create_segment(last.first_record)
            return last.first_record
        if size > end:
            log.warning("%s: cut off %d bytes of an unfinished record at %d", last.path, size - end, end)
        self._file = last.path.open("r+b", buffering=0)
        self._file.truncate(end)
        self._file.seek(end)
        return last.first_record + len(records)


def expect_no_writer(folder: Path) -> None:
    """Raise JournalError if a process writes the journal in `folder` now."""
    lock = folder / WRITER_FILE
    if lock.exists():
        with lock.open("ab") as held:
            _hold(held, folder)


def _hold(file: BinaryIO, folder: Path) -> None:
    """Be the writer until `file` is closed or this process dies."""
    if not try_lock(file.fileno()):
        msg = f"expected to be the only writer of {folder}, but another process writes it"
        raise JournalError(msg)


def read_journal(folder: Path, *, start: int = 0) -> Iterator[TreeDelivery]:
    """The trees in `folder` from record `start` on. May be read while it is written.

    Raises:
        JournalError: there is no journal, or a record is corrupt; names the segment and the offset.
    """
    segments = _segments(folder)
    if not segments:
        msg = f"expected a journal (trees-*.journal) in {folder}, found none"
        raise JournalError(msg)
    number = segments[0].first_record
    for segment in segments:
        last = segment is segments[-1]
        if segment.first_record != number:
            msg = f"expected a segment that begins with record {number} before {segment.path}, found none"
            raise JournalError(msg)
        following = None if last else segments[segments.index(segment) + 1].first_record
        if following is not None and following <= start:
            number = following
            continue
        for record in _scan(segment, last=last):
            if number >= start:
                yield _read(segment, record)
            number += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    path: Path
    first_record: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    start: int
    """Offset of the payload."""
    end: int


def _segment_path(folder: Path, first_record: int) -> Path:
    return folder / f"trees-{first_record:012d}.journal"


def _segments(folder: Path) -> list[_Segment]:
    found = []
    for path in sorted(folder.glob("trees-*.journal")):
        number = path.stem.removeprefix("trees-")
        if number.isdigit():
            found.append(_Segment(path=path, first_record=int(number)))
    return found


def _sync_folder(folder: Path) -> None:
    """Force the names in it to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _record_header(payload: bytes) -> bytes:
    header = _HEADER.pack(RECORD_MAGIC, len(payload), zlib.crc32(payload), 0)[:_HEADER_CRC_BYTES]
    return header + struct.pack("<I", zlib.crc32(header))


def _payload(delivery: TreeDelivery) -> bytes:
    frames = encode(delivery)
    lengths = [memoryview(frame).nbytes for frame in frames]
    return b"".join([struct.pack(f"<{1 + len(frames)}I", len(frames), *lengths), *frames])


def _scan(segment: _Segment, *, last: bool) -> Iterator[_Record]:
    """Where the records of a segment lie. Stops before an unfinished one at the end of the last segment."""
    with segment.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(len(SEGMENT_MAGIC))
        if magic != SEGMENT_MAGIC:
            if last and SEGMENT_MAGIC.startswith(magic):
                return
            raise _corrupt(segment, 0, f"the magic {SEGMENT_MAGIC!r}", repr(magic))
        while (offset := file.tell()) < size:
            header = file.read(_HEADER.size)
            if last and _is_torn(header, file, size):
                log.warning("%s: an unfinished record at offset %d is passed over", segment.path, offset)
                return
            record = _check_header(segment, offset, header, size)
            if last and record.end == size and not _payload_checks(file, header, record):
                log.warning("%s: an unfinished record at offset %d is passed over", segment.path, offset)
                return
            yield record
            file.seek(record.end)


def _is_torn(header: bytes, file: BinaryIO, size: int) -> bool:
    """A record that ends after the file does, or space that was allocated and never written."""
    if len(header) < _HEADER.size:
        return True
    if header == bytes(_HEADER.size):
        return not any(file.read())
    _, length, _, header_crc = _HEADER.unpack(header)
    return bool(zlib.crc32(header[:_HEADER_CRC_BYTES]) == header_crc and file.tell() + length > size)


def _check_header(segment: _Segment, offset: int, header: bytes, size: int) -> _Record:
    if len(header) < _HEADER.size:
        raise _corrupt(segment, offset, f"a record header of {_HEADER.size} bytes", f"{len(header)} bytes")
    magic, length, _, header_crc = _HEADER.unpack(header)
    if magic != RECORD_MAGIC or zlib.crc32(header[:_HEADER_CRC_BYTES]) != header_crc:
        raise _corrupt(segment, offset, "a record header with a matching checksum", header.hex())
    start = offset + _HEADER.size
    if start + length > size:
        raise _corrupt(segment, offset, f"a payload of {length} bytes", f"{size - start}")
    return _Record(start=start, end=start + length)


def _payload_checks(file: BinaryIO, header: bytes, record: _Record) -> bool:
    file.seek(record.start)
    return bool(zlib.crc32(file.read(record.end - record.start)) == _HEADER.unpack(header)[2])


def _read(segment: _Segment, record: _Record) -> TreeDelivery:
    with segment.path.open("rb") as file:
        file.seek(record.start - _HEADER.size)
        header = file.read(_HEADER.size)
        payload = file.read(record.end - record.start)
    expected, found = _HEADER.unpack(header)[2], zlib.crc32(payload)
    offset = record.start - _HEADER.size
    if found != expected:
        raise _corrupt(segment, offset, f"a payload with CRC-32 {expected:08x}", f"{found:08x}")
    try:
        delivery: TreeDelivery = decode(_frames(payload), TreeDelivery, max_bytes=len(payload))
    except (MessageError, struct.error) as error:
        raise _corrupt(segment, offset, "a tree", str(error)) from error
    return delivery


def _frames(payload: bytes) -> list[memoryview]:
    (count,) = struct.unpack_from("<I", payload)
    lengths = struct.unpack_from(f"<{count}I", payload, 4)
    view, frames = memoryview(payload), []
    offset = 4 * (1 + count)
    for length in lengths:
        frames.append(view[offset : offset + length])
        offset += length
    return frames


def _corrupt(segment: _Segment, offset: int, expected: str, got: str) -> JournalError:
    return JournalError(f"corrupt journal: {segment.path} at offset {offset}: expected {expected}, got {got}")
