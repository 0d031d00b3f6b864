"""An environment over the rows of a data set, the user's own or a published one.

What a row is made of, how it is asked and how an answer is graded is said by a class for its kind; here are
the files, the split, the ids and the levels.
"""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from trieline.common.numbers import MAX_TASK_ID, MAX_TASKS
from trieline.common.text import shortened
from trieline.envs.datasets.data_files import DataSource
from trieline.envs.datasets.files import records_of, splits_in
from trieline.envs.datasets.records import said
from trieline.envs.datasets.rows import Row
from trieline.envs.datasets.task_set import Difficulty, TaskSet, task_set_of
from trieline.envs.datasets.task_set_env import TaskSetEnv
from trieline.envs.errors import DataError, TaskError
from trieline.envs.text_env import Split, expect_field, is_held_out
from trieline.envs.text_space import Text

logger = logging.getLogger(__name__)

KEPT = 16
"""Data sets in memory: every episode makes an environment anew."""
PARTS = 3
"""Levels of a column with many different values."""
MOST_QUESTION = 100_000
"""Code points of what a row asks."""
_ID_DIGITS = 12


class OtherKind(Exception):  # no error
    """A row that is sound and not of the kind that an environment plays: it is left out, and counted."""


class RowTask(Protocol):
    """What a class makes of a row."""

    @property
    def key(self) -> str:
        """What is asked. Rows that ask the same are never on both sides of the split."""

    @property
    def identity(self) -> str:
        """What tells rows apart that are asked the same: with the key, it makes the id of one without."""

    @property
    def named(self) -> str | None:
        """The id that the row itself has."""

    @property
    def difficulty(self) -> Difficulty | None:
        """What it is sorted into levels by."""


RowTaskT = TypeVar("RowTaskT", bound=RowTask)
Columns = tuple[tuple[str, tuple[str, ...]], ...]


class DatasetEnv(TaskSetEnv[RowTaskT], Generic[RowTaskT]):
    """Rows out of JSON Lines, JSON, Parquet or Arrow, packed or not, a folder of them, or the hub.

    Args:
        prompt: what is said, with what a row asks in the place of its field in braces (`{question}`).
        data: a file, the folder of a data set, or its name on the Hugging Face hub. None: a sample of a few
            rows in the same columns.
        test_data: a file of what is held out. None: the split of that name of a folder that has both, else
            `test_share` of the rows, by the hash of what they ask.
        subset: a folder within the data set (`main` of `openai/gsm8k`).
        columns: which column of the data is what, where it is not named as published.
        level_column: rows are sorted into levels by it; by default by what the class knows of.
        sha256: of the one file of `data`.
        train_split, test_split: of a folder, where they are not named so.
        revision: of a data set on the hub.
        split, level: as in every environment.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """What a row is made of: our names, and the columns of published data that hold it."""
    default_prompt: ClassVar[str]
    field: ClassVar[str] = "question"
    """Of the prompt."""
    sample: ClassVar[tuple[str, str]]
    """The package and folder of the sample, of both splits."""

    def __init__(
        self,
        *,
        prompt: str | None = None,
        data: str | None = None,
        test_data: str | None = None,
        subset: str | None = None,
        columns: Mapping[str, str] | None = None,
        level_column: str | None = None,
        sha256: str | None = None,
        train_split: str = "train",
        test_split: str = "test",
        revision: str | None = None,
        test_share: float = 0.2,
        split: Split = "train",
        level: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if not 0 <= test_share <= 1:
            msg = f"expected a test_share of 0 to 1, got {test_share!r}"
            raise TaskError(msg)
        source = None
        if data is not None:
            source = DataSource(
                data=str(data),
                test_data=None if test_data is None else str(test_data),
                subset=subset,
                train_split=train_split,
                test_split=test_split,
                sha256=sha256,
                revision=revision,
            )
        mapped = self._columns_of(columns or {}, level_column)
        kind: type[DatasetEnv[Any]] = type(self)
        # mypy takes a class to have the hash of its instances.
        tasks: TaskSet[RowTaskT] = _read(kind, source, mapped, test_share)  # type: ignore[arg-type]
        super().__init__(tasks, split=split, level=level, render_mode=render_mode)
        self._prompt = expect_field(self.default_prompt if prompt is None else prompt, self.field)
        self.observation_space = Text(MOST_QUESTION + len(self._prompt))

    # ---- what a class for a kind of rows defines

    @classmethod
    @abstractmethod
    def task_of(cls, row: Row) -> RowTaskT:
        """A row read. Raises DataError for one that is not as it should be, OtherKind to leave one out."""

    # ---- what it gets

    @classmethod
    def _columns_of(cls, given: Mapping[str, str], level_column: str | None) -> Columns:
        if unknown := sorted(set(given) - set(cls.columns)):
            msg = f"columns: expected names out of {sorted(cls.columns)}, got {unknown}"
            raise TaskError(msg)
        known = {**cls.columns, **{name: (str(column),) for name, column in given.items()}}
        if level_column is not None:
            known["level"] = (level_column,)
        return tuple(known.items())

    def task_id(self, task: RowTaskT) -> str:
        return id_of(task)

    def asked(self, text: str) -> str:
        """The first observation, for what a row asks."""
        return self._prompt.replace(f"{{{self.field}}}", text)


def id_of(task: RowTask) -> str:
    """The row's own id, or the first digits of the SHA-256 of what it asks and expects."""
    if task.named is not None:
        return task.named
    text = f"{task.key}\0{task.identity}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:_ID_DIGITS]


@lru_cache(maxsize=KEPT)
def _read(
    kind: type[DatasetEnv[Any]], source: DataSource | None, columns: Columns, test_share: float
) -> TaskSet[Any]:
    """Raises DataError: a row is not of its kind (names file, row and column), or there are none."""
    known = dict(columns)
    if source is None:
        package, name = kind.sample
        source = DataSource(data=str(files(package) / name))
    try:
        place, test_place = source.place(), source.test_place()
        if test_place is not None:
            train = _tasks(kind, known, place, None)
            return _of_both(kind, train, _tasks(kind, known, test_place, None))
        splits = (source.train_split, source.test_split)
        if place.is_dir() and splits_in(place) >= set(splits):
            train, test = (_tasks(kind, known, place, split) for split in splits)
            return _of_both(kind, train, test)
        only = source.train_split if place.is_dir() and source.train_split in splits_in(place) else None
        return _task_set(kind, known, place, only, test_share)
    except OSError as error:
        msg = f"expected rows in {source.data}: {error}"
        raise DataError(msg) from error


def _task_set(
    kind: type[DatasetEnv[Any]],
    columns: Mapping[str, tuple[str, ...]],
    place: Path,
    split: str | None,
    test_share: float,
) -> TaskSet[Any]:
    tasks = _tasks(kind, columns, place, split)
    test_ids = [name for name, task in tasks.items() if is_held_out(task.key, test_share)]
    return task_set_of(tasks, test_ids, lambda task: task.difficulty, parts=PARTS)


def _of_both(kind: type[DatasetEnv[Any]], train: Mapping[str, Any], test: Mapping[str, Any]) -> TaskSet[Any]:
    """What is held out stays so: rows to train on that ask the same are left out."""
    held_out = {task.key for task in test.values()}
    kept = {name: task for name, task in train.items() if task.key not in held_out}
    if len(kept) < len(train):
        logger.warning(
            "%s: %d of %d rows to train on ask what is held out, and are left out",
            kind.__name__,
            len(train) - len(kept),
            len(train),
        )
    if both := sorted(set(kept) & set(test)):
        msg = f"expected no id in both splits, got {both[:5]}"
        raise DataError(msg)
    return task_set_of({**kept, **test}, test, lambda task: task.difficulty, parts=PARTS)


def _tasks(
    kind: type[DatasetEnv[Any]], columns: Mapping[str, tuple[str, ...]], place: Path, split: str | None
) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    places: dict[str, str] = {}
    repeated = others = 0
    for at, record in records_of(place, split):
        if not isinstance(record.value, Mapping):
            msg = f"{at}: expected an object with columns, got {said(record.value)}"
            raise DataError(msg)
        try:
            task = kind.task_of(Row(values=record.value, columns=columns))
        except OtherKind:
            others += 1
            continue
        except DataError as error:
            msg = f"{at}: {error}"
            raise DataError(msg) from error
        name = id_of(task)
        if not 0 < len(name) <= MAX_TASK_ID:
            msg = f"{at}: id: expected 1 to {MAX_TASK_ID} characters, got {shortened(name, 60)!r}"
            raise DataError(msg)
        if name in tasks:
            if tasks[name] != task:
                msg = f"{at}: id: expected an id once, got {name!r}, as in {places[name]}"
                raise DataError(msg)
            repeated += 1
            continue
        if len(tasks) == 2 * MAX_TASKS:
            msg = f"{at}: expected at most {2 * MAX_TASKS:,} rows, got more"
            raise DataError(msg)
        tasks[name], places[name] = task, at
    if not tasks:
        msg = f"expected rows in {place}, got none" + (f" but {others} of another kind" if others else "")
        raise DataError(msg)
    if others:
        logger.warning("%s: %d rows are of another kind, and left out", place, others)
    if repeated:
        logger.warning("%s: %d rows are there more than once, and count once", place, repeated)
    return tasks
