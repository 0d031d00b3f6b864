"""The repository tasks of a data set by split, and by level: equal parts by the size of the gold fix."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

from trieline.envs.datasets.files import splits_in
from trieline.envs.datasets.task_set import TaskSet, task_set_of
from trieline.envs.errors import DataError
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.rows import read_rows
from trieline.envs.text_env import SPLITS, is_held_out

LEVELS = 3
KEPT = 4
"""Data sets in memory: every episode makes an environment anew."""

RepositorySet = TaskSet[RepositoryTask]


@lru_cache(maxsize=KEPT)
def read_task_set(path: Path, test_share: float) -> RepositorySet:
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
    return repository_set([*train, *test], test_ids)


@lru_cache(maxsize=KEPT)
def shared_out(tasks: tuple[RepositoryTask, ...], test_share: float) -> RepositorySet:
    """Of tasks without splits of their own."""
    ids = (task.instance_id for task in tasks)
    return repository_set(tasks, [name for name in ids if is_held_out(name, test_share)])


def repository_set(tasks: Sequence[RepositoryTask], test_ids: Collection[str]) -> RepositorySet:
    """Of these tasks, the levels being equal parts of each split that leave none empty."""
    by_id = {task.instance_id: task for task in tasks}
    return task_set_of(by_id, test_ids, fix_size, parts=LEVELS, named=False)


def fix_size(task: RepositoryTask) -> int:
    """Lines that the gold patch adds and removes."""
    lines = task.patch.split("\n")
    return sum(line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") for line in lines)
