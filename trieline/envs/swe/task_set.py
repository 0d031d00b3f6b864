"""The tasks of a data set by split and by level."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trieline.envs.errors import DataError
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.rows import read_rows, splits_in

LEVELS = 3
OWN_SPLITS = frozenset({"train", "test"})
"""A folder that has both says itself which tasks are held out."""
KEPT = 4
"""Data sets in memory: every episode makes an environment anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet:
    """Those of one file or folder."""

    tasks: tuple[RepositoryTask, ...]
    """In the order of the data."""
    by_id: dict[str, RepositoryTask]
    held_out: frozenset[str] | None
    """Ids of the test tasks. None: the data doesn't say."""


def task_set_of(tasks: Sequence[RepositoryTask], held_out: frozenset[str] | None = None) -> TaskSet:
    """Of these tasks."""
    return TaskSet(tasks=tuple(tasks), by_id={t.instance_id: t for t in tasks}, held_out=held_out)


@lru_cache(maxsize=KEPT)
def read_task_set(path: Path) -> TaskSet:
    """The tasks in a file or folder, read once.

    Raises:
        DataError, OSError: as `read_rows`, or an id is in both splits.
    """
    if not (path.is_dir() and splits_in(path) >= OWN_SPLITS):
        return task_set_of(read_rows(path))
    train, test = (read_rows(path, split) for split in ("train", "test"))
    held_out = frozenset(task.instance_id for task in test)
    if both := sorted(held_out & {task.instance_id for task in train}):
        msg = f"{path}: expected no task in both splits, got {both[:5]}"
        raise DataError(msg)
    return task_set_of([*train, *test], held_out)


def by_levels(tasks: Sequence[RepositoryTask], levels: int) -> list[list[RepositoryTask]]:
    """Equal parts of the tasks by the size of their gold fix, the smallest first."""
    sized = sorted(tasks, key=lambda task: (fix_size(task), task.instance_id))
    return [sized[len(sized) * n // levels : len(sized) * (n + 1) // levels] for n in range(levels)]


def levels_of(*splits: Sequence[RepositoryTask]) -> int:
    """As many as leave no level of a split that has tasks without one."""
    return max(1, min([LEVELS, *(len(tasks) for tasks in splits if tasks)]))


def fix_size(task: RepositoryTask) -> int:
    """Lines that the gold patch adds and removes."""
    lines = task.patch.split("\n")
    return sum(line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") for line in lines)
