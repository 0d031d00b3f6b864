"""What a crash or a power cut leaves unfinished is passed over; all else that does not check is an error."""

import logging
import struct
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.trees import random_tree
from tests.wire.journals import before_it_was_safe, damage, deliveries, numbers, records, segments, write
from trieline.wire.codec import encode
from trieline.wire.errors import JournalError
from trieline.wire.journal import Journal, read_journal
from trieline.wire.journal_segments import (
    MARK_FILE,
    RECORD_MAGIC,
    SEGMENT_MAGIC,
    list_segments,
    record_bytes,
)
from trieline.wire.messages import TreeDelivery


@pytest.mark.parametrize("marked", [True, False], ids=["", "of before the mark"])
@pytest.mark.parametrize("keep", [1, 15, 16, 17, 31, 32, 33, 200, -1])
def test_a_torn_last_record_is_passed_over_then_cut_off(
    tmp_path: Path, keep: int, marked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trees = deliveries(6)
    write(tmp_path, trees[:1])
    with before_it_was_safe(tmp_path):
        whole = segments(tmp_path)[0].stat().st_size
        write(tmp_path, trees[1:2])
    if not marked:
        (tmp_path / MARK_FILE).unlink()
    data = segments(tmp_path)[0].read_bytes()
    cut = data[: whole + keep] if keep > 0 else data[:keep]
    segments(tmp_path)[0].write_bytes(cut)
    with caplog.at_level(logging.WARNING):
        assert numbers(tmp_path) == [0]
    assert "unfinished record" in caplog.text
    write(tmp_path, trees[2:4])
    assert numbers(tmp_path) == [0, 2, 3]


@pytest.mark.parametrize("marked", [True, False], ids=["", "of before the mark"])
@pytest.mark.parametrize("first_page", [16, 200, None])
def test_pages_of_the_last_record_that_never_reached_the_disk(
    tmp_path: Path, first_page: int | None, marked: bool
) -> None:
    write(tmp_path, deliveries(2))
    with before_it_was_safe(tmp_path):
        write(tmp_path, deliveries(1, first=2))
    if not marked:
        (tmp_path / MARK_FILE).unlink()
    last = records(tmp_path)[-1]
    damage(segments(tmp_path)[0], last.offset, bytes(first_page or last.end - last.offset))
    assert numbers(tmp_path) == [0, 1]
    write(tmp_path, deliveries(1, first=3))
    assert numbers(tmp_path) == [0, 1, 3]


@pytest.mark.parametrize("where", ["header", "payload", "both pages of two"])
def test_damage_after_the_mark_is_torn_whatever_follows(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, deliveries(3))
    with before_it_was_safe(tmp_path):
        write(tmp_path, deliveries(5, first=3))
    torn = records(tmp_path)[4]
    start, new = {
        "header": (torn.offset, bytes(16)),
        "payload": (torn.end - 40, b"\xff" * 40),
        "both pages of two": (torn.end - 20, bytes(40)),
    }[where]
    damage(segments(tmp_path)[0], start, new)
    assert numbers(tmp_path) == [0, 1, 2, 3]
    with caplog.at_level(logging.WARNING):
        journal = Journal(tmp_path)
    assert f"of an unfinished record at {torn.offset}" in caplog.text
    assert journal.num_records == 4
    journal.append(deliveries(1, first=9)[0])
    journal.close()
    assert numbers(tmp_path) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("new", [bytes(16), b"\xff" * 16], ids=["zeros", "garbage"])
def test_damage_before_the_mark_is_corruption(tmp_path: Path, new: bytes) -> None:
    write(tmp_path, deliveries(3))
    with before_it_was_safe(tmp_path):
        write(tmp_path, deliveries(5, first=3))
    last_safe = records(tmp_path)[2]
    damage(segments(tmp_path)[0], last_safe.offset, new)
    for read in (numbers, Journal):
        with pytest.raises(JournalError, match=rf"at offset {last_safe.offset}: expected a record header"):
            read(tmp_path)


@pytest.fixture(scope="module")
def half_safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of seven trees, of which the first three are before the mark."""
    folder = tmp_path_factory.mktemp("half_safe")
    write(folder, deliveries(3))
    with before_it_was_safe(folder):
        write(folder, deliveries(4, first=3))
    return folder


@settings(deadline=None)  # it writes files
@given(data=st.data(), cut=st.booleans())
def test_any_damage_is_torn_after_the_mark_and_corrupt_before_it(
    data: st.DataObject, cut: bool, half_safe: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (segment,) = list_segments(half_safe)
    whole = segment.path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.binary(min_size=1, max_size=len(whole) - at))
    damaged = whole[:at] if cut else whole[:at] + new + whole[at + len(new) :]
    folder = tmp_path_factory.mktemp("damaged")
    (folder / MARK_FILE).write_bytes((half_safe / MARK_FILE).read_bytes())
    (folder / segment.path.name).write_bytes(damaged)
    assert segment.synced is not None
    if damaged == whole:
        assert numbers(folder) == list(range(7))
    elif at < segment.synced:
        with pytest.raises(JournalError, match=r"corrupt journal: .* at offset \d+: expected"):
            numbers(folder)
    else:
        found = numbers(folder)
        assert found == list(range(7))[: len(found)]
        assert len(found) >= 3
        with closing(Journal(folder)) as journal:
            assert journal.num_records == len(found)


def test_a_file_that_ends_before_the_mark_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, deliveries(3))
    last = records(tmp_path)[-1]
    segments(tmp_path)[0].write_bytes(segments(tmp_path)[0].read_bytes()[: last.offset])
    for read in (numbers, Journal):
        with pytest.raises(JournalError, match=f"expected {last.end} bytes that were safe on the disk, got"):
            read(tmp_path)


def test_what_was_forced_to_the_disk_is_before_the_mark(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, fsync_s=1e6)) as journal:
        journal.append(deliveries(1)[0])
        assert list_segments(tmp_path)[-1].synced == 16
        journal.sync()
        assert list_segments(tmp_path)[-1].synced == segments(tmp_path)[-1].stat().st_size


@pytest.mark.parametrize("mark", [b"", bytes(28), b"SYNCED-1 and more"])
def test_a_damaged_mark_says_nothing(tmp_path: Path, mark: bytes, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, deliveries(2))
    (tmp_path / MARK_FILE).write_bytes(mark)
    with caplog.at_level(logging.WARNING):
        assert numbers(tmp_path) == [0, 1]
    assert f"{MARK_FILE} is damaged" in caplog.text


def test_a_tail_that_was_allocated_and_never_written_is_torn(tmp_path: Path) -> None:
    write(tmp_path, deliveries(2))
    with segments(tmp_path)[0].open("ab") as file:
        file.write(bytes(4096))
    assert len(list(read_journal(tmp_path))) == 2
    assert Journal(tmp_path).num_records == 2


@pytest.mark.parametrize("torn", [b"", b"TRIEL", bytes(16), bytes(4096)])
def test_a_segment_whose_beginning_was_torn_is_begun_anew(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, deliveries(3))
    (tmp_path / "trees-000000000003.journal").write_bytes(torn)
    assert len(list(read_journal(tmp_path))) == 3
    write(tmp_path, deliveries(1, first=3))
    assert numbers(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("marked", [True, False], ids=["", "of before the mark"])
@pytest.mark.parametrize("where", ["magic", "header", "length", "payload"])
def test_corruption_names_segment_and_offset(tmp_path: Path, where: str, marked: bool) -> None:
    write(tmp_path, deliveries(5))
    if not marked:
        (tmp_path / MARK_FILE).unlink()
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


@pytest.mark.parametrize("which", ["first", "last", "only"])
def test_a_missing_end_of_the_journal_is_an_error_of_readers_and_writers(tmp_path: Path, which: str) -> None:
    write(tmp_path, deliveries(30), segment_bytes=1 << 20 if which == "only" else 4000)
    lost = segments(tmp_path)[0 if which == "first" else -1]
    number = int(lost.stem.removeprefix("trees-"))
    lost.unlink()
    for read in (numbers, Journal):
        with pytest.raises(JournalError, match=f"segment that begins with record {number} in .*found none"):
            read(tmp_path)


def test_each_segment_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, deliveries(30), segment_bytes=4000)
    opened: list[str] = []
    open_path = Path.open

    def counted(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self.name)
        return open_path(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    assert len(list(read_journal(tmp_path))) == 30
    monkeypatch.undo()
    assert [name for name in opened if name.endswith(".journal")] == [p.name for p in segments(tmp_path)]


# ---- what checks and is no tree


def test_a_cycle_of_parents_under_a_right_checksum_is_refused(tmp_path: Path) -> None:
    good, bad = deliveries(2)
    tree = replace(bad.tree, parents=bad.tree.parents[::-1].copy())
    write(tmp_path, [good, msgspec.structs.replace(bad, tree=tree)])
    offset = records(tmp_path)[1].offset
    with pytest.raises(JournalError, match=rf"at offset {offset}: expected a tree, got .*expected parents"):
        numbers(tmp_path)


@settings(deadline=None)  # it writes files
@given(data=st.data(), seed=st.integers(0, 20))
def test_whatever_stands_under_a_right_checksum_is_a_tree_or_an_error(
    data: st.DataObject, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    delivery = TreeDelivery(
        actor_id="actor", sequence_number=0, assignment_id=0, tree=random_tree(np.random.default_rng(seed))
    )
    payload = bytearray(record_bytes(encode(delivery))[16:])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    header = struct.pack("<4sII", RECORD_MAGIC, len(payload), zlib.crc32(payload))
    folder = tmp_path_factory.mktemp("journal")
    record = header + struct.pack("<I", zlib.crc32(header)) + payload
    (folder / "trees-000000000000.journal").write_bytes(SEGMENT_MAGIC + record)
    with suppress(JournalError):
        for found in read_journal(folder):
            found.tree.validate()


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x01", struct.pack("<I", 0xFFFFFFFF), struct.pack("<I", 0), struct.pack("<III", 2, 1, 9) + b"x"],
)
def test_frames_that_are_not_there(tmp_path: Path, payload: bytes) -> None:
    header = struct.pack("<4sII", RECORD_MAGIC, len(payload), zlib.crc32(payload))
    record = header + struct.pack("<I", zlib.crc32(header)) + payload
    (tmp_path / "trees-000000000000.journal").write_bytes(SEGMENT_MAGIC + record)
    with pytest.raises(JournalError, match="at offset 16: expected a tree, got expected"):
        numbers(tmp_path)


def test_what_is_no_segment_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "trees-000000000000.journal").mkdir()
    with pytest.raises(JournalError, match=r"can't read .*trees-0+\.journal: .*Is a directory"):
        numbers(tmp_path)
    other = tmp_path / "other"
    write(other, deliveries(2))
    (other / "trees-\N{SUPERSCRIPT TWO}.journal").write_bytes(b"")
    (other / "trees-000000000009.journal.bak").write_bytes(b"")
    assert numbers(other) == [0, 1]
