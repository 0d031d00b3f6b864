"""How many threads to compute with while other programs use the cores, too.

Threads that wait for each other at some hundred barriers a token are as fast as the slowest: where one of
them takes turns on its core with another program, all of them wait for its turn at each barrier. As many
threads as there are cores left are faster.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

STAT = Path("/proc/stat")
INTERVAL_S = 1.0
"""Over which cores are counted: /proc/stat has hundredths of a second, and takes a while to read."""


def left_seconds() -> float | None:
    """Seconds, since some time in the past, in which the cores that this process may use were left to it.

    They had nothing to do, or computed for it; summed over the cores. None where the kernel doesn't say.
    """
    usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
    except OSError:
        return None
    # After the name: user, nice, system, idle and iowait.
    idle = sum(int(fields[4]) + int(fields[5]) for fields in lines if fields and fields[0] in usable)
    return idle / os.sysconf("SC_CLK_TCK") + time.process_time()


class LeftCores:
    """Keeps torch's number of threads to the cores that others leave. For the thread that computes.

    Never to fewer than half: who gives way to everybody gets less than a fair share.
    """

    def __init__(
        self,
        most: int,
        *,
        read: Callable[[], float | None] = left_seconds,
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        """`most`: the threads to compute with where nobody else does."""
        self._most, self._least = most, max(1, most // 2)
        self._read, self._clock, self._use = read, clock, use
        self._threads = most
        self._since: tuple[float, float] | None = None
        """The clock, and the seconds left, at the beginning of the interval."""

    def look(self) -> None:
        """Between two steps of work: count again, if it is time."""
        now = self._clock()
        if self._most == 1 or (self._since and now - self._since[0] < INTERVAL_S):
            return
        before, left = self._since, self._read()
        if left is None:
            return
        self._since = now, left
        if before is None:
            return
        cores = (left - before[1]) / (now - before[0])
        threads = max(self._least, min(self._most, round(cores)))
        if threads != self._threads:
            self._threads = threads
            self._use(threads)

    def rest(self) -> None:
        """Nothing is to be done: who computes meanwhile need not be there afterwards."""
        self._since = None
