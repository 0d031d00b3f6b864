"""An environment whose tasks are those of a set, by split and level."""

from abc import abstractmethod
from collections.abc import Iterator

from trieline.envs.datasets.task_set import TaskSet, TaskT
from trieline.envs.errors import TaskError
from trieline.envs.text_env import ListedTextEnv, Split


class TaskSetEnv(ListedTextEnv[TaskT]):
    """Draws, lists and finds tasks. `task_id` is what the set knows a task by."""

    def __init__(
        self, tasks: TaskSet[TaskT], *, split: Split, level: int, render_mode: str | None = None
    ) -> None:
        self._set = tasks
        self.levels = tasks.levels
        super().__init__(split=split, level=level, render_mode=render_mode)

    @abstractmethod
    def task_id(self, task: TaskT) -> str: ...

    def all_tasks(self) -> Iterator[TaskT]:
        return iter(self._set.by_id.values())

    def in_test(self, task: TaskT) -> bool:
        return self.task_id(task) in self._set.test_ids

    def draw_task(self, level: int) -> TaskT:
        tasks = self._set.by_level[self.split][level]
        if not tasks:
            msg = f"expected {self.split} tasks of level {level}, got none among {len(self._set.by_id)} tasks"
            raise TaskError(msg)
        return tasks[self.np_random.integers(len(tasks))]

    def parse_task(self, task_id: str) -> TaskT:
        task = self._set.by_id.get(task_id)
        if task is None:
            example = next(iter(self._set.by_id))
            msg = f"expected one of {len(self._set.by_id)} ids such as {example!r}"
            raise ValueError(msg)
        return task

    def shared_by_forks(self) -> tuple[object, ...]:
        return *super().shared_by_forks(), self._set, self._task
