"""Gymnasium's toy worlds in text move as they do without it, and so does a world of one's own."""

from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.envs import make_env
from trieline.envs.errors import EnvError, TaskError
from trieline.envs.game.discrete import SeededEnv, moves_to_goal
from trieline.envs.game.toy_text import Blackjack, CliffWalking, Taxi

TABULAR = (Taxi, CliffWalking)


@pytest.mark.parametrize("kind", TABULAR)
@given(state=st.integers(0, 499), words=st.lists(st.integers(0, 5), max_size=30))
@settings(max_examples=30, deadline=None)
def test_steps_are_those_of_gymnasium(kind: Any, state: int, words: list[int]) -> None:
    env = kind()
    if state not in env.made.ways or not env.can_start(state):
        return
    env.reset(options={"task_id": f"99:{state}"})
    world = kind.make_world()
    world.reset(seed=0)
    world.s = state
    names = list(env.actions)
    for number in words:
        word = names[number % len(names)]
        expected, reward, over, _, _ = world.step(env.actions[word])
        text, ours, ended, _, _ = env.step(f"I say {word.upper()}!")
        assert (env.observation, ended, ours) == (expected, over, float(over and kind.wins(reward)))
        if over:
            return
        assert text == env.view()


@pytest.mark.parametrize("kind", TABULAR)
def test_the_expert_needs_the_fewest_moves_from_everywhere(kind: Any) -> None:
    env = kind()
    for state, moves in env.made.ways.items():
        if env.can_start(state):
            env.reset(options={"task_id": f"{moves}:{state}"})
            assert (env.solution() is not None) == (moves == 1)
            assert [env.step(word)[1] for word in env.demonstrate()] == [0.0] * (moves - 1) + [1.0]


@pytest.mark.parametrize("kind", TABULAR)
def test_each_level_has_starts_in_both_splits(kind: Any) -> None:
    for level, distance in enumerate(kind.distances):
        for split in ("train", "test"):
            env = kind(level=level, split=split)
            for seed in range(10):
                task = env.parse_task(env.reset(seed=seed)[1]["task_id"])
                assert distance.fewest <= task.moves - distance.spare <= distance.most


def test_what_the_taxi_reads() -> None:
    env = Taxi()
    observation, _ = env.reset(options={"task_id": "20:331"})
    assert observation == (
        "+---------+\n|R: | : :G|\n| : | : : |\n| : : : : |\n| |T: | : |\n|Y| : |B: |\n+---------+\n"
        "The passenger is south and west of the taxi T. Its destination is B. A wall is west.\n"
        "Choose one word: north, south, east, west, pickup or dropoff."
    )
    assert env.step("drive")[0] == f"That names no action. {observation}"
    env.reset(options={"task_id": "1:16"})
    assert env.step("dropoff")[:3] == ("You made it.", 1.0, True)


def test_off_the_cliff_is_back_to_the_start() -> None:
    env = CliffWalking()
    assert (
        "or right. The cliff is down. The goal is down and right."
        in env.reset(options={"task_id": "3:30"})[0]
    )
    assert "P" in env.step("down")[0].split("\n")[3]
    env.step("up")
    text, reward, over, _, info = env.step("nowhere")
    assert (text, reward, over) == ("No moves left.", 0.0, True)
    assert info["score"] == {"end": "moves", "moves_left": 0, "invalid": 1}


@pytest.mark.parametrize("kind", TABULAR)
@pytest.mark.parametrize("task_id", ["", "5", "0:30", "5:37", "5:500", "1000:30", "05:30", "5:30\n", "5:٣"])
def test_states_that_are_none_are_refused(kind: Any, task_id: str) -> None:
    if not (kind is Taxi and task_id == "5:37"):
        with pytest.raises(TaskError):
            kind().reset(options={"task_id": task_id})


@pytest.mark.parametrize(
    ("env_id", "options"),
    [("Taxi", {"is_rainy": True}), ("CliffWalking", {"is_slippery": True}), ("Blackjack", {})],
)
def test_forks_have_the_same_luck_and_go_their_own_ways(env_id: str, options: dict[str, Any]) -> None:
    env: Any = make_env(f"trieline/{env_id}-v0", **options).unwrapped
    for seed in range(10):
        env.reset(seed=seed, options={"level": env.levels - 1})
        fork, third = env.fork(), env.fork()
        words = [word for word in env.actions if word != "stick"] * 3
        played = _played(env, words)
        assert _played(fork, words) == played
        assert third.moves_left == third.turns_of(third.task)
        assert _played(third, words) == played


def _played(env: Any, words: list[str]) -> list[Any]:
    return [env.step(word) for word in words if not env._over]


def test_options_of_a_world_that_it_has_not_are_errors() -> None:
    with pytest.raises(EnvError, match="is_muddy"):
        make_env("trieline/Taxi-v0", is_muddy=True)


def test_rewards_of_blackjack_are_those_of_gymnasium() -> None:
    env = Blackjack()
    seen = set()
    for seed in range(60):
        world: Any = gymnasium.make("Blackjack-v1").unwrapped
        expected, _ = world.reset(seed=seed)
        text, _ = env.reset(options={"task_id": str(seed)})
        assert f"worth {expected[0]}" in text
        _, reward, over, _, _ = world.step(0)
        assert (env.solution() is not None) == (reward == 1)
        ours = env.step("I stand")
        assert (ours[1], ours[2]) == ((reward + 1) / 2, over)
        seen.add(ours[4]["score"]["end"])
    assert seen == {"won", "drawn", "lost"}


def test_moves_are_counted_through_a_table_of_chance() -> None:
    slips = [(0.5, 1, 0.0, False), (0.5, 0, 0.0, False)]
    table = {
        0: {0: slips},
        1: {0: [(1.0, 2, 1.0, True)], 1: [(1.0, 3, -1.0, True)]},
        3: {0: [(1.0, 3, 0.0, False)]},
    }
    assert moves_to_goal(table, lambda reward: reward > 0) == {0: 2, 1: 1}


class Walk(gymnasium.Env[Any, Any]):
    """To 2 or to -2, from 0."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Discrete(5, start=-2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(-1, 2))
        return self.place, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.place += 2 * int(action) - 1
        return self.place, float(self.place > 1), abs(self.place) > 1, False, {}


class ToldWalk(SeededEnv):
    """A walk in words."""

    actions = {"Go on": 1, "back": 0, "go": 1}  # noqa: RUF012
    turns = 5

    def make_world(self) -> Any:
        return Walk()

    def tell(self, observation: int) -> str:
        return f"You stand at {observation}."


def test_a_world_of_ones_own_takes_words() -> None:
    env = ToldWalk(split="test")
    text, info = env.reset(seed=0)
    assert text == f"You stand at {env.world.place}.\nChoose one word: go on or back."
    assert env.fork().world.place == env.world.place
    place = env.world.place
    assert {env.in_test(seed) for seed in range(20)} == {True, False}
    assert env.world.place == place
    while not (last := env.step("Let us go on."))[2]:
        pass
    assert last[:2] == ("You won.", 1.0)
    assert ToldWalk().reset(options={"task_id": info["task_id"]})[0] == text


@pytest.mark.parametrize(
    ("env_id", "word"),
    [
        ("trieline/Taxi-v0", "ſouth"),
        ("trieline/CliffWalking-v0", "rıght"),
        ("trieline/Blackjack-v0", "ſtick"),
    ],
)
def test_letters_that_only_look_alike_name_no_action(env_id: str, word: str) -> None:
    env = make_env(env_id)
    env.reset(seed=0)
    assert isinstance(env.step(word)[0], str)
