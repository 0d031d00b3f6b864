import errno
import json
import os
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pytest
import zmq

from tests.wire.journals import as_bytes, deliveries, numbers, records, segments, write
from trieline.wire import journal as journal_module
from trieline.wire.codec import encode
from trieline.wire.errors import JournalError
from trieline.wire.journal import Journal, expect_no_writer, read_journal
from trieline.wire.journal_segments import (
    SEGMENT_MAGIC,
    frames_of,
)

DATA = Path(__file__).parent / "data"


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


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    trees = deliveries(4)
    journal = Journal(tmp_path)
    journal.append(trees[0])
    assert len(list(read_journal(tmp_path))) == 1
    journal.append(trees[1])
    assert len(list(read_journal(tmp_path))) == 2
    journal.close()


# ---- frames as they came


def test_frames_that_came_are_kept_as_they_are(tmp_path: Path) -> None:
    (delivery,) = deliveries(1)
    header, *arrays = (bytes(frame) for frame in encode(delivery))
    fields = msgspec.msgpack.decode(header) | {"of_a_later_version": 1}
    frames = [zmq.Frame(msgspec.msgpack.encode(fields)), *(zmq.Frame(a) for a in arrays)]
    with closing(Journal(tmp_path)) as journal:
        assert journal.append(delivery, frames) == 0
    assert [bytes(f) for f in frames_of(records(tmp_path)[0].payload)] == [f.bytes for f in frames]
    assert [as_bytes(d) for d in read_journal(tmp_path)] == [as_bytes(delivery)]


# ---- journals of before


def test_a_journal_of_before_the_later_columns_still_reads(tmp_path: Path) -> None:
    """Written, and read into `trees.json`, by the code of commit 42849ea: three trees in two segments."""
    shutil.copytree(DATA / "journal_of_protocol_2", tmp_path, dirs_exist_ok=True)
    expected = json.loads((tmp_path / "trees.json").read_text())
    found = list(read_journal(tmp_path))
    assert len(found) == len(expected) == 3
    for delivery, known in zip(found, expected, strict=True):
        for name, value in known["tree"].items():
            column = getattr(delivery.tree, name)
            assert (column.tolist() if isinstance(column, np.ndarray) else column) == (
                tuple(value) if isinstance(column, tuple) else value
            ), name
        assert {name: getattr(delivery, name) for name in known if name != "tree"} == {
            name: value for name, value in known.items() if name != "tree"
        }
        assert delivery.tree.comparison_groups.tolist() == [0] * delivery.tree.num_leaves
        assert delivery.tree.num_masks == len(delivery.tree.edge_kinds) == 0
    write(tmp_path, deliveries(1, first=3))
    assert numbers(tmp_path) == [0, 1, 2, 3]


# ---- the writer


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
        if data == SEGMENT_MAGIC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(file, data)

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(JournalError, match=r"can't append to .*No space left"):
        journal.append(trees[1])
    monkeypatch.undo()
    assert journal.append(trees[2]) == 1
    journal.close()
    assert [d.sequence_number for d in read_journal(tmp_path)] == [0, 2]


@pytest.mark.parametrize("first", [0, 1, 5, 8, 9])
def test_a_journal_is_read_from_a_record_on(first: int, tmp_path: Path) -> None:
    write(tmp_path, deliveries(9), segment_bytes=2000)
    assert len(segments(tmp_path)) > 2
    assert [d.sequence_number for d in read_journal(tmp_path, first)] == list(range(first, 9))
