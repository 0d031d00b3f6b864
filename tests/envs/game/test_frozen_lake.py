"""The lake in text behaves as Gymnasium's own, and can be forked in mid-walk."""

from typing import Any

import gymnasium
import pytest

from trieline.envs import make_env
from trieline.envs.game.frozen_lake import LEVELS, MOVES, FrozenLake

ENV = "trieline/FrozenLake-v0"
LAKE = "9:SFF/FHF/FFG"


def test_text_shows_map_goal_and_holes() -> None:
    env = make_env(ENV)
    observation, _ = env.reset(options={"task_id": LAKE})
    assert observation.startswith(
        "P..\n.H.\n..G\nChoose one word: up, down, left or right. The goal is down and right."
    )
    assert "A hole is down. The goal is down and right." in env.step("right")[0]


def test_moves_are_those_of_gymnasium() -> None:
    walk = ["right", "up", "left", "right", "right", "down", "left"]
    env: Any = make_env(ENV).unwrapped
    world: Any = gymnasium.make("FrozenLake-v1", desc=["SFF", "FHF", "FFG"], is_slippery=False)
    env.reset(options={"task_id": LAKE})
    world.reset(seed=0)
    for move in walk:
        _, reward, terminated, _, _ = env.step(move)
        state, expected_reward, expected_end, _, _ = world.step(MOVES[move])
        assert (divmod(int(state), 3), float(expected_reward), expected_end) == (
            env.position,
            reward,
            terminated,
        )


@pytest.mark.parametrize(
    ("moves", "end", "reward"),
    [
        (["right", "down"], "hole", 0.0),
        (["down"] * 2 + ["right"] * 2, "goal", 1.0),
        (["up"] * 9, "moves", 0.0),
    ],
)
def test_ends_are_told(moves: list[str], end: str, reward: float) -> None:
    env = make_env(ENV)
    env.reset(options={"task_id": LAKE})
    *_, last = (env.step(move) for move in moves)
    assert (last[1], last[2], last[4]["score"]["end"]) == (reward, True, end)


def test_slippery_forks_slip_alike() -> None:
    env: Any = make_env(ENV, is_slippery=True, level=4).unwrapped
    env.reset(seed=4)
    env.step("up")
    fork = env.fork()
    walk = ["left", "up", "left", "up"] * 5
    assert [_position_after(env, move) for move in walk] == [_position_after(fork, move) for move in walk]


def _position_after(env: Any, move: str) -> Any:
    if not env._over:
        env.step(move)
    return env.position


def test_a_fork_does_not_move_with_the_original() -> None:
    env: Any = make_env(ENV).unwrapped
    env.reset(options={"task_id": LAKE})
    env.step("right")
    fork = env.fork()
    env.step("right")
    assert (env.position, fork.position) == ((0, 2), (0, 1))
    assert fork.step("left")[0].startswith("P..\n.H.\n..G\n")


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_levels_keep_their_distance(level: int) -> None:
    env: Any = make_env(ENV, level=level).unwrapped
    low, high = LEVELS[level].distance
    for seed in range(20):
        env.reset(seed=seed)
        assert low <= len(env.demonstrate_way()) <= high


@pytest.mark.parametrize(
    "task_id",
    ["", "0:SG", "9:SHG", "9:SG/F", "9:SSG", "9:GGS", "9:" + "/".join(["F" * 17] * 2), "x:SG", "9:SG\n"],
)
def test_impossible_lakes_are_refused(task_id: Any) -> None:
    from trieline.envs.errors import TaskError

    with pytest.raises(TaskError):
        make_env(ENV).reset(options={"task_id": task_id})


@pytest.mark.parametrize(
    ("reply", "direction"),
    [
        ("Right.", "right"),
        ("go UP, up!", "up"),
        ("up or down", "up"),
        ("do right", "right"),
        ("upper", None),
        ("", None),
    ],
)
def test_the_first_direction_counts(reply: str, direction: str | None) -> None:
    assert FrozenLake.named_action(reply) == direction
