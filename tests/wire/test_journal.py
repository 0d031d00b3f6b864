import errno
import logging
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from tests.trees import random_tree
from trieline.wire import journal as journal_module
from trieline.wire.codec import encode
from trieline.wire.errors import JournalError
from trieline.wire.journal import Journal, expect_no_writer, read_journal
from trieline.wire.messages import TreeDelivery


def deliveries(count: int, *, first: int = 0) -> list[TreeDelivery]:
    rng = np.random.default_rng(first)
    return [
        TreeDelivery(actor_id="actor", sequence_number=i, assignment_id=2 * i, tree=random_tree(rng))
        for i in range(first, first + count)
    ]


def as_bytes(delivery: TreeDelivery) -> list[bytes]:
    return [bytes(frame) for frame in encode(delivery)]


def write(folder: Path, trees: list[TreeDelivery], *, segment_bytes: int = 1 << 20) -> None:
    journal = Journal(folder, segment_bytes=segment_bytes)
    for tree in trees:
        journal.append(tree)
    journal.close()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def test_trees_come_back_as_they_were_over_several_segments(tmp_path: Path) -> None:
    trees = deliveries(40)
    write(tmp_path, trees[:25], segment_bytes=4000)
    journal = Journal(tmp_path, segment_bytes=4000)
    assert journal.num_records == 25
    numbers = [journal.append(tree) for tree in trees[25:]]
    journal.close()
    journal.close()
    assert numbers == list(range(25, 40))
    assert len(segments(tmp_path)) > 3
    assert [as_bytes(d) for d in read_journal(tmp_path)] == [as_bytes(d) for d in trees]
    for start in (1, 17, 39, 40, 99):
        assert [d.sequence_number for d in read_journal(tmp_path, start=start)] == list(range(start, 40))


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    trees = deliveries(4)
    journal = Journal(tmp_path)
    journal.append(trees[0])
    assert len(list(read_journal(tmp_path))) == 1
    journal.append(trees[1])
    assert len(list(read_journal(tmp_path, start=1))) == 1
    journal.close()


@pytest.mark.parametrize("keep", [1, 15, 16, 17, 31, 32, 33, 200, -1])
def test_a_torn_last_record_is_passed_over_then_cut_off(
    tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    trees = deliveries(6)
    write(tmp_path, trees[:1])
    whole = segments(tmp_path)[0].stat().st_size
    write(tmp_path, trees[1:2])
    data = segments(tmp_path)[0].read_bytes()
    cut = data[: whole + keep] if keep > 0 else data[:keep]
    segments(tmp_path)[0].write_bytes(cut)
    with caplog.at_level(logging.WARNING):
        assert [d.sequence_number for d in read_journal(tmp_path)] == [0]
    assert "unfinished record" in caplog.text
    write(tmp_path, trees[2:4])
    assert [d.sequence_number for d in read_journal(tmp_path)] == [0, 2, 3]


def test_a_tail_that_was_allocated_and_never_written_is_torn(tmp_path: Path) -> None:
    write(tmp_path, deliveries(2))
    with segments(tmp_path)[0].open("ab") as file:
        file.write(bytes(4096))
    assert len(list(read_journal(tmp_path))) == 2
    assert Journal(tmp_path).num_records == 2


def test_a_segment_whose_magic_was_torn_is_begun_anew(tmp_path: Path) -> None:
    write(tmp_path, deliveries(3))
    (tmp_path / "trees-000000000003.journal").write_bytes(b"TRIEL")
    assert len(list(read_journal(tmp_path))) == 3
    write(tmp_path, deliveries(1, first=3))
    assert [d.sequence_number for d in read_journal(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["magic", "header", "length", "payload"])
def test_corruption_names_segment_and_offset(tmp_path: Path, where: str) -> None:
    write(tmp_path, deliveries(5))
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[{"magic": 3, "header": 16, "length": 20, "payload": 100}[where]] ^= 0x40
    path.write_bytes(data)
    offset = 0 if where == "magic" else 16
    with pytest.raises(JournalError, match=rf"trees-0+\.journal at offset {offset}: expected .*, got "):
        list(read_journal(tmp_path))


def test_corruption_in_the_last_record_of_an_inner_segment_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, deliveries(20), segment_bytes=4000)
    first, *_ = segments(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(JournalError, match=r"trees-0+\.journal at offset \d+: expected a payload of"):
        list(read_journal(tmp_path))


def test_a_missing_segment_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, deliveries(30), segment_bytes=4000)
    segments(tmp_path)[1].unlink()
    with pytest.raises(JournalError, match="expected a segment that begins with record"):
        list(read_journal(tmp_path))


def test_no_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="expected a journal"):
        list(read_journal(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="can't write the journal"):
        Journal(tmp_path / "file")


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(deliveries(1)[0])


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append(deliveries(1)[0])
    for open_another in (Journal, expect_no_writer):
        with pytest.raises(JournalError, match="expected to be the only writer"):
            open_another(tmp_path)
    first.close()
    expect_no_writer(tmp_path)
    expect_no_writer(tmp_path / "none")
    write(tmp_path, deliveries(1, first=1))
    assert [d.sequence_number for d in read_journal(tmp_path)] == [0, 1]


def test_trees_reach_the_disk_in_time_though_no_other_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = threading.Event()
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        fsync(descriptor)
        forced.set()

    with closing(Journal(tmp_path, fsync_s=0.5)) as journal:
        journal.sync()
        monkeypatch.setattr(os, "fsync", counted)
        journal.append(deliveries(1)[0])
        assert forced.wait(10)


def test_a_disk_that_fails_late_is_told_before_more_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    fsync = os.fsync

    def fail_once(descriptor: int) -> None:
        """As Linux does: the next call knows of nothing."""
        if failed.is_set():
            return fsync(descriptor)
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    first, second = deliveries(2)
    journal = Journal(tmp_path, fsync_s=0.5)
    journal.sync()
    monkeypatch.setattr(os, "fsync", fail_once)
    journal.append(first)
    assert failed.wait(10)
    for call in (lambda: journal.append(second), journal.sync, journal.close):
        with pytest.raises(JournalError, match=r"to the disk: .*Input/output error"):
            call()
    journal.close()


def test_a_segment_that_can_not_be_begun_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = deliveries(3)
    journal = Journal(tmp_path, segment_bytes=1)
    journal.append(trees[0])
    write_all = journal_module._write_all

    def full(file: BinaryIO, data: bytes) -> None:
        if data == journal_module.SEGMENT_MAGIC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(file, data)

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(JournalError, match=r"can't append to .*No space left"):
        journal.append(trees[1])
    monkeypatch.undo()
    assert journal.append(trees[2]) == 1
    journal.close()
    assert [d.sequence_number for d in read_journal(tmp_path)] == [0, 2]
