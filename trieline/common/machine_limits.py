"""How much of this machine a process may use: what its CPU affinity and its control groups leave.

A control group of version 1 or 2 bounds memory, and gives a quota of CPU time: programs in containers and
jobs of a cluster get less than the machine has, and are slowed down or killed for more.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")


def usable_cores() -> int:
    """Cores that this process can keep busy, at least 1: as many threads are worth starting."""
    most = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return most if quota is None else max(1, min(most, math.floor(quota)))


def chosen_threads() -> int | None:
    """What the user's OMP_NUM_THREADS says, None if it says nothing usable."""
    # It may be a list, one number for each level of nested regions.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def cpu_quota(proc: Path = PROC) -> float | None:
    """Seconds of CPU time a second that the control groups of this process allow; None: no limit."""
    found = []
    for folder in _groups(proc, "cpu"):
        quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        if not quota:
            quota = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit(proc: Path = PROC) -> int | None:
    """Bytes that the control groups of this process allow; None: no limit."""
    found = []
    for folder in _groups(proc, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = "".join(_words(folder / name))
            if limit.isdecimal():
                found.append(int(limit))
    return min(found, default=None)


def machine_memory() -> int:
    """Bytes of memory of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory() -> int:
    """Bytes that this process and its siblings in its control group can have."""
    # Version 1 says "no limit" with a number beyond every machine.
    return min(machine_memory(), memory_limit() or machine_memory())


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of `controller` that this process is in, from the inmost to the root."""
    paths = {}
    for line in _lines(proc / "cgroup"):
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    for line in _lines(proc / "mountinfo"):
        # "36 35 98:0 ROOT MOUNTPOINT options [tags] - TYPE source OPTIONS"
        before, _, after = line.partition(" - ")
        root, mounted = before.split()[3:5]
        kind, *_, options = after.split()
        name = "" if kind == "cgroup2" else controller
        if kind not in ("cgroup", "cgroup2") or name not in paths:
            continue
        if kind == "cgroup" and controller not in options.split(","):
            continue
        # In a container without a namespace of its own the path is the host's, and the mount shows its end.
        own = paths[name].removeprefix("" if root == "/" else root).strip("/")
        top = Path(mounted)
        inmost = top / own if own and ".." not in own.split("/") else top
        yield inmost
        yield from (folder for folder in inmost.parents if folder == top or top in folder.parents)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]
