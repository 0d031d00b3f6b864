"""An environment is asked for its list of tasks. No episode begins."""

from collections.abc import Sequence

import msgspec

from trieline.actors.env_session import TextEnv, env_method, make_split
from trieline.actors.env_threads import call_with_deadline
from trieline.actors.errors import EnvFailure, EnvironmentSetupError
from trieline.envs.errors import EnvError
from trieline.wire.config import EnvConfig
from trieline.wire.task_lists import TaskLists


def listed_tasks(config: EnvConfig, timeout_s: float) -> TaskLists | None:
    """The tasks of both splits; None if the environment does not list them.

    What it is made to train on (`split` among its kwargs) stands as `train`.

    Raises:
        EnvironmentSetupError: it can't be made or hangs, or returns what is no list of tasks.
    """

    def ask() -> dict[str, object] | None:
        env = make_split(config, None)
        try:
            return _answers(env, str(config.kwargs.get("split", "train")))
        finally:
            env.close()

    try:
        answers = call_with_deadline(f"{config.id}: task_ids", ask, timeout_s)
    except (EnvFailure, EnvError) as error:
        raise EnvironmentSetupError(str(error)) from error
    if answers is None:
        return None
    try:
        lists = msgspec.convert({split: _texts(ids) for split, ids in answers.items()}, TaskLists)
    except ValueError as error:
        msg = f"{config.id}: task_ids: {error}. With curriculum.listed = false its tasks are drawn by seed"
        raise EnvironmentSetupError(msg) from error
    if config.kwargs.get("split") != "test" and (common := {*lists.train} & {*lists.test}):
        msg = f"{config.id}: task_ids: expected no task in both splits, got {sorted(common)[:5]}"
        raise EnvironmentSetupError(msg)
    return lists


def _answers(env: TextEnv, train_split: str) -> dict[str, object] | None:
    task_ids = env_method(env, "task_ids")
    if task_ids is None:
        return None
    return {"train": task_ids(train_split), "test": task_ids("test")}


def _texts(ids: object) -> list[object]:
    """Plain texts of what may be a subclass; anything else is left for the check to name."""
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        msg = f"expected a sequence of texts, got {ids!r:.80}"
        raise ValueError(msg)
    for task in ids:
        if isinstance(task, str):
            task.encode()
    return [str(task) if isinstance(task, str) else task for task in ids]
