"""Journals for tests: to write them, to look at them, and to damage them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.trees import random_tree
from trieline.wire.codec import encode
from trieline.wire.journal import Journal, read_journal
from trieline.wire.journal_segments import (
    MARK_FILE,
    Record,
    list_segments,
    read_records,
)
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


@contextmanager
def before_it_was_safe(folder: Path) -> Iterator[None]:
    """What is written inside is in the operating system's hands, and the power fails before it is safe."""
    mark = (folder / MARK_FILE).read_bytes()
    yield
    (folder / MARK_FILE).write_bytes(mark)


def records(folder: Path) -> list[Record]:
    """Those of the last segment."""
    return list(read_records(list_segments(folder)[-1]))


def numbers(folder: Path) -> list[int]:
    return [d.sequence_number for d in read_journal(folder)]


def damage(path: Path, start: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + len(new)] = new
    path.write_bytes(data)
