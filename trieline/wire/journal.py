"""The journal: every accepted tree, in the order of acceptance, in append-only segments of the wire's frames.

Records are numbered from 0 over all segments, and trees are trained in that order. "How many records have the
steps so far taken" is therefore all that a checkpoint needs to know: a resumed run goes on with the next one,
trains on no tree twice and loses none.

Each append is handed to the operating system before it returns, so a crash of the process loses nothing that
was acknowledged; it is forced to the disk every `fsync_s` seconds and by `sync`, so that a power cut loses at
most that. What a crash left unfinished at the end of the last segment (see `journal_segments`) is passed over
by readers and cut off by the next writer. Anything else that does not check is an error, and so is a record
that checks and holds no tree that a socket would have let in.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import BinaryIO

from trieline.common.file_lock import try_lock
from trieline.common.folders import sync, write_whole
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.errors import JournalError, MessageError, TreeError
from trieline.wire.journal_header import JournalHeader, expect_tokenizer, read_header, write_header
from trieline.wire.journal_segments import (
    SEGMENT_MAGIC,
    Record,
    Segment,
    SyncedMark,
    corrupt,
    frames_of,
    list_segments,
    read_records,
    record_bytes,
    segment_path,
)
from trieline.wire.messages import TreeDelivery

log = logging.getLogger(__name__)

WRITER_FILE = "writer.lock"


class Journal:
    """Appends to the journal in a folder. Any thread may call it; a second writer is refused."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        fsync_s: float = 1.0,
        header: JournalHeader | None = None,
    ) -> None:
        """Open the folder (made if it is not there) and cut off what a crashed writer left unfinished.

        `header`: what a journal that is begun says of itself. One that goes on must say the same, or nothing.

        Raises:
            JournalError: somebody else writes it, a segment is missing, the last one is corrupt, its header
                is another, or it can't be written.
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
                segments = list_segments(folder)
                if header is not None:
                    expect_tokenizer(folder, header)
                    if not segments:
                        write_header(folder, header)
                self._mark = opened.enter_context(closing(SyncedMark(folder)))
                self.num_records = self._open_last_segment(segments)
            except OSError as error:
                msg = f"can't write the journal in {folder}: {error}"
                raise JournalError(msg) from error
            self._held = opened.pop_all()

    def append(self, delivery: TreeDelivery, frames: Sequence[InFrame] | None = None) -> int:
        """Write one tree; it is in the operating system's hands on return. Returns its record number.

        `frames`: those that it came in, if it did; they are kept as they are.

        Raises:
            JournalError: it could not be written (the journal is as it was before), or what was written
                before could not be forced to the disk.
        """
        record = record_bytes(encode(delivery) if frames is None else frames)
        with self._lock:
            file = self._open_file()
            start = file.tell()
            try:
                if start > len(SEGMENT_MAGIC) and start + len(record) > self._segment_bytes:
                    file = self._next_segment(file)
                    start = file.tell()
                _write_all(file, record)
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
            self._mark.move(self._first_record, file.tell())
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
        path = segment_path(self._folder, first_record)
        # Unbuffered: a write that fails leaves nothing behind that a later one would flush.
        file = path.open("w+b", buffering=0)
        try:
            _write_all(file, SEGMENT_MAGIC)
            os.fsync(file.fileno())
            sync(self._folder)
            self._mark.move(first_record, file.tell())
        except OSError:
            file.close()
            path.unlink()
            raise
        self._first_record = first_record
        return file

    def _open_last_segment(self, segments: Sequence[Segment]) -> int:
        """Open the file to append to; returns the number of records in the journal."""
        if not segments:
            self._file = self._create_segment(0)
            return 0
        last, end, count = segments[-1], len(SEGMENT_MAGIC), 0
        for record in read_records(last):
            end, count = record.end, count + 1
        size = last.path.stat().st_size
        if count == 0:  # perhaps not even the magic was finished
            self._file = self._create_segment(last.first_record)
            return last.first_record
        if size > end:
            log.warning("%s: cut off %d bytes of an unfinished record at %d", last.path, size - end, end)
        self._file = last.path.open("r+b", buffering=0)
        self._first_record = last.first_record
        self._file.truncate(end)
        self._file.seek(end)
        self._sync(self._file)
        return last.first_record + count


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


def read_journal(folder: Path, first: int = 0) -> Iterator[TreeDelivery]:
    """The trees in `folder`, in order, from record `first` on. May be read while it is written.

    Raises:
        JournalError: there is no journal, a segment is missing, or a record is corrupt; names the segment and
            the offset.
    """
    segments = list_segments(folder)
    if not segments:
        msg = f"expected a journal (trees-*.journal) in {folder}, found none"
        raise JournalError(msg)
    header = read_header(folder)
    vocab_size = header.vocab_size if header else None
    # Whole segments before it aren't opened.
    begin = max([i for i, s in enumerate(segments) if s.first_record <= first], default=0)
    number = segments[begin].first_record
    for segment in segments[begin:]:
        if segment.first_record != number:
            msg = f"expected a segment that begins with record {number} before {segment.path}, found none"
            raise JournalError(msg)
        for record in read_records(segment):
            if number >= first:
                yield _delivery(segment, record, vocab_size)
            number += 1


def write_tree(path: Path, delivery: TreeDelivery) -> None:
    """One tree in a file of its own, a segment of one record: whole, and on the disk when this returns.

    Raises:
        OSError: it can't be written.
    """
    write_whole(path, SEGMENT_MAGIC + record_bytes(encode(delivery)))


def read_tree(path: Path) -> TreeDelivery:
    """The tree in a file that `write_tree` wrote. Raises JournalError: there is none, or it is corrupt."""
    try:
        segment = Segment(path=path, first_record=0, synced=path.stat().st_size)
    except OSError as error:
        msg = f"can't read {path}: {error}"
        raise JournalError(msg) from error
    for record in read_records(segment):
        return _delivery(segment, record, None)
    raise corrupt(segment, len(SEGMENT_MAGIC), "a tree", "none")


def _delivery(segment: Segment, record: Record, vocab_size: int | None) -> TreeDelivery:
    try:
        frames = frames_of(record.payload)
        delivery: TreeDelivery = decode(frames, TreeDelivery, max_bytes=len(record.payload))
        delivery.tree.validate(vocab_size=vocab_size)
    except (MessageError, TreeError) as error:
        raise corrupt(segment, record.offset, "a tree", str(error)) from error
    return delivery


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
