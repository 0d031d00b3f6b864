"""Tasks are chosen by seed, level, split and name."""

from typing import Any

import pytest
from gymnasium.error import ResetNeeded

from trieline.envs import make_env
from trieline.envs.errors import EnvError, TaskError
from trieline.envs.registry import OWN_ENVS

ENV = "trieline/GuessNumber-v0"


def test_options_choose_level_and_task() -> None:
    env = make_env(ENV, level=0)
    assert "/2/" in env.reset(seed=1)[1]["task_id"]
    assert "/4/" in env.reset(seed=1, options={"level": 2})[1]["task_id"]
    assert env.reset(options={"task_id": "5-7/2/6"})[1]["task_id"] == "5-7/2/6"
    assert "/2/" in env.reset(seed=1)[1]["task_id"]


def test_without_a_seed_tasks_go_on() -> None:
    env = make_env(ENV, level=4)
    env.reset(seed=1)
    assert len({env.reset()[1]["task_id"] for _ in range(10)}) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 99}, r"level of GuessNumber in 0..4, got 99"),
        ({"level": "1"}, r"got '1'"),
        ({"level": True}, r"got True"),
        ({"task_id": "nonsense"}, r"no task 'nonsense': expected 'low-high/turns/number'"),
        ({"task_id": None}, r"no task None"),
        ({"task_id": "5-7/2/9"}, r"low <= number <= high"),
        ({"lvl": 1}, r"options out of \('level', 'task_id'\), got \['lvl'\]"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make_env(ENV).reset(seed=0, options=options)


@pytest.mark.parametrize("kwargs", [{"split": "valid"}, {"level": -1}, {"level": 5}, {"colour": "red"}])
def test_bad_arguments_are_named(kwargs: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=next(iter(kwargs))):
        make_env(ENV, **kwargs)


def test_steps_outside_of_an_episode_are_refused() -> None:
    env: Any = make_env("trieline/Arithmetic-v0").unwrapped
    with pytest.raises(ResetNeeded, match="not begun"):
        env.step("1")
    env.reset(seed=0)
    env.step("1")
    with pytest.raises(ResetNeeded, match="over"):
        env.step("1")


def test_render_shows_the_episode() -> None:
    env: Any = make_env(ENV, render_mode="ansi")
    env.reset(options={"task_id": "5-7/2/7"})
    env.step("5")
    script = env.render()
    assert script.splitlines()[1] == "> 5"
    assert "Choose 6 or 7." in script


def test_a_fork_is_independent() -> None:
    env: Any = make_env(ENV).unwrapped
    env.reset(options={"task_id": "1-7/3/6"})
    env.step("4")
    fork = env.fork()
    assert env.step("6")[1] == 1.0
    assert (env.turns_left, fork.turns_left) == (1, 2)
    assert fork.step("6")[1] == 1.0


@pytest.mark.parametrize("env_id", [env.id for env in OWN_ENVS])
def test_a_fork_before_the_first_reset_can_be_reset(env_id: str) -> None:
    env: Any = make_env(env_id).unwrapped
    assert env.fork().reset(seed=3) == env.reset(seed=3)
