"""The tasks of a data set by split and by level."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trieline.envs.errors import DataError
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.rows import read_rows, splits_in
from trieline.envs.text_env import SPLITS, Split, is_held_out

LEVELS = 3
KEPT = 4
"""Data sets in memory: every episode makes an environment anew."""

Level = tuple[RepositoryTask, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet:
    """Those of one file or folder."""

    by_id: Mapping[str, RepositoryTask]
    """In the order of the data."""
    test_ids: frozenset[str]
    by_level: Mapping[Split, tuple[Level, ...]]
    """Of each split, equal parts by the size of the gold fix, the smallest first."""

    @property
    def levels(self) -> int:
        """How many there are."""
        return len(self.by_level["train"])


def task_set_of(tasks: Sequence[RepositoryTask], test_ids: Collection[str]) -> TaskSet:
    """Of these tasks. There are as many levels as leave none of a split empty that has tasks at all."""
    held_out = frozenset(test_ids)
    splits: dict[Split, list[RepositoryTask]] = {split: [] for split in SPLITS}
    for task in sorted(tasks, key=lambda task: (fix_size(task), task.instance_id)):
        splits["test" if task.instance_id in held_out else "train"].append(task)
    levels = min(LEVELS, *(len(part) or LEVELS for part in splits.values()))
    return TaskSet(
        by_id={task.instance_id: task for task in tasks},
        test_ids=held_out,
        by_level={split: _parts(part, levels) for split, part in splits.items()},
    )


@lru_cache(maxsize=KEPT)
def read_task_set(path: Path, test_share: float) -> TaskSet:
    """The tasks in a file or folder, read once.

    Args:
        path: of the data.
        test_share: that is held out, by the hash of the ids, where the data is no folder with both splits.

    Raises:
        DataError, OSError: as `read_rows`, or an id is in both splits.
    """
    if not (path.is_dir() and splits_in(path) >= set(SPLITS)):
        return shared_out(tuple(read_rows(path)), test_share)
    train, test = (read_rows(path, split) for split in SPLITS)
    test_ids = {task.instance_id for task in test}
    if both := sorted(test_ids & {task.instance_id for task in train}):
        msg = f"{path}: expected no task in both splits, got {both[:5]}"
        raise DataError(msg)
    return task_set_of([*train, *test], test_ids)


@lru_cache(maxsize=KEPT)
def shared_out(tasks: tuple[RepositoryTask, ...], test_share: float) -> TaskSet:
    """Of tasks without splits of their own."""
    ids = (task.instance_id for task in tasks)
    return task_set_of(tasks, [name for name in ids if is_held_out(name, test_share)])


def _parts(tasks: Sequence[RepositoryTask], count: int) -> tuple[Level, ...]:
    return tuple(tuple(tasks[len(tasks) * n // count : len(tasks) * (n + 1) // count]) for n in range(count))


def fix_size(task: RepositoryTask) -> int:
    """Lines that the gold patch adds and removes."""
    lines = task.patch.split("\n")
    return sum(line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") for line in lines)
