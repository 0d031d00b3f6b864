"""The tasks of a data set by id, by split and by level."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from trieline.envs.text_env import SPLITS, Split

TaskT = TypeVar("TaskT")
Difficulty: TypeAlias = float | str

MOST_NAMED_LEVELS = 10
"""Different difficulties that are a level each. More are cut into equal parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet(Generic[TaskT]):
    """Those of one data set."""

    by_id: Mapping[str, TaskT]
    """In the order of the data."""
    test_ids: frozenset[str]
    by_level: Mapping[Split, tuple[tuple[TaskT, ...], ...]]
    """Of each split, the easiest first."""

    @property
    def levels(self) -> int:
        """How many there are."""
        return len(self.by_level["train"])


def task_set_of(
    by_id: Mapping[str, TaskT],
    test_ids: Collection[str],
    difficulty: Callable[[TaskT], Difficulty | None],
    *,
    parts: int,
    named: bool = True,
) -> TaskSet[TaskT]:
    """Of these tasks.

    A few difficulties (at most MOST_NAMED_LEVELS, unless `named` is False) are a level each, in their order;
    more are cut into `parts` equal parts of each split, or as many as leave none empty. Where any task has
    no difficulty there is one level.
    """
    held_out = frozenset(test_ids)
    known = {task_id: difficulty(task) for task_id, task in by_id.items()}
    found = {value for value in known.values() if value is not None}
    in_split: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for task_id in by_id:
        in_split["test" if task_id in held_out else "train"].append(task_id)
    levels: dict[Split, list[list[str]]]
    if None in known.values() or len({type(value) for value in found}) > 1:
        levels = {split: [ids] for split, ids in in_split.items()}
    elif named and len(found) <= MOST_NAMED_LEVELS:
        order = sorted(found)
        levels = {
            split: [[i for i in ids if known[i] == v] for v in order] for split, ids in in_split.items()
        }
    else:
        ranked = {split: sorted(ids, key=lambda i: (known[i], i)) for split, ids in in_split.items()}
        count = min(parts, *(len(ids) or parts for ids in ranked.values()))
        levels = {split: _parts(ids, count) for split, ids in ranked.items()}
    return TaskSet(
        by_id=by_id,
        test_ids=held_out,
        by_level={
            split: tuple(tuple(by_id[i] for i in ids) for ids in parts_) for split, parts_ in levels.items()
        },
    )


def _parts(ids: Sequence[str], count: int) -> list[list[str]]:
    return [list(ids[len(ids) * n // count : len(ids) * (n + 1) // count]) for n in range(count)]
