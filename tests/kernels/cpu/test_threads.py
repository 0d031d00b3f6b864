"""Threads follow the cores that other programs leave."""

import os
import time
from pathlib import Path

import pytest

from trieline.kernels.cpu import threads
from trieline.kernels.cpu.threads import INTERVAL_S, LeftCores, left_seconds


class Machine:
    """Cores, of which others use some, and a process that computes on as many as it has threads."""

    def __init__(self, cores: int) -> None:
        self.count, self.threads = cores, cores
        self.time = self.left = 0.0
        self.used: list[int] = []

    def cores(self, most: int) -> LeftCores:
        return LeftCores(most, read=lambda: self.left, clock=lambda: self.time, use=self.use)

    def use(self, threads: int) -> None:
        self.threads = threads
        self.used.append(threads)

    def run(self, others: int, seconds: float = INTERVAL_S) -> None:
        """Everyone gets a fair share of the cores, and at most one."""
        share = min(1.0, self.count / (others + self.threads))
        self.time += seconds
        self.left += (self.count - share * others) * seconds


def after(cores: int, others: list[int]) -> list[int]:
    """The threads after each interval with so many busy other programs."""
    machine = Machine(cores)
    left = machine.cores(cores)
    left.look()
    found = []
    for count in others:
        machine.run(count)
        left.look()
        found.append(machine.threads)
    return found


@pytest.mark.parametrize(
    ("cores", "others", "expected"),
    [
        (2, [0, 0], [2, 2]),
        (2, [2, 2, 2, 0], [1, 1, 1, 2]),
        (2, [1, 1, 0], [1, 1, 2]),
        (2, [20, 20, 0], [1, 1, 2]),
        (16, [2, 2, 2, 0], [14, 14, 14, 16]),
        (16, [16, 16, 0], [8, 8, 16]),
        (1, [1, 0], [1, 1]),
    ],
    ids=str,
)
def test_as_many_as_others_leave(cores: int, others: list[int], expected: list[int]) -> None:
    assert after(cores, others) == expected


def test_never_more_than_it_was_given() -> None:
    machine = Machine(8)
    left = machine.cores(3)
    machine.threads = 3
    for _ in range(3):
        left.look()
        machine.run(0)
    assert machine.used == []


def test_nothing_changes_within_an_interval() -> None:
    machine = Machine(2)
    left = machine.cores(2)
    left.look()
    machine.run(5, seconds=0.9 * INTERVAL_S)
    left.look()
    assert machine.used == []


def test_what_others_do_during_a_rest_does_not_count() -> None:
    machine = Machine(2)
    left = machine.cores(2)
    left.look()
    machine.run(9)
    left.rest()
    left.look()
    machine.run(0)
    left.look()
    assert machine.used == []


def test_the_kernel_is_read_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9 9 9\ncpu0 1 1 1 300 50 1\ncpu1 1 1 1 100 0 1\ncpu10 1 1 1 7 7 1\nintr 1\n")
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    monkeypatch.setattr(time, "process_time", lambda: 0.25)
    assert left_seconds() == 4.75
    stat.unlink()
    assert left_seconds() is None
    used: list[int] = []
    LeftCores(2, use=used.append).look()
    assert used == []
