"""Tasks in the schema of SWE-bench, from the files in which such data sets are published and kept."""

from pathlib import Path

from trieline.envs.datasets.files import records_of
from trieline.envs.errors import DataError
from trieline.envs.swe.repository_task import COLUMNS, RepositoryTask, task_of

MOST_ROWS = 1_000_000


def read_rows(path: Path, split: str | None = None) -> list[RepositoryTask]:
    """The tasks in a file, or of one split of a folder, in order.

    Args:
        path: a file or the folder of a data set, as in `files`.
        split: which one, where a folder has several (`test`, `train`).

    Raises:
        DataError: a row is not in the schema (names file, row and column), an id comes twice, or as
            `records_of`.
        OSError: a file can't be opened; names it.
    """
    tasks: list[RepositoryTask] = []
    places: dict[str, str] = {}
    for place, record in records_of(path, split, columns=COLUMNS):
        try:
            task = task_of(record.value)
        except DataError as error:
            msg = f"{place}: {error}"
            raise DataError(msg) from error
        if record.key not in {None, task.instance_id}:
            msg = f"{place}: instance_id: expected the key of the row, got {task.instance_id!r}"
            raise DataError(msg)
        if (earlier := places.setdefault(task.instance_id, place)) != place:
            msg = f"{place}: instance_id: expected an id once, got {task.instance_id!r}, as in {earlier}"
            raise DataError(msg)
        if len(tasks) == MOST_ROWS:
            msg = f"{place}: expected at most {MOST_ROWS:,} rows, got more"
            raise DataError(msg)
        tasks.append(task)
    if not tasks:
        msg = f"expected rows in {path}, got none"
        raise DataError(msg)
    return tasks
