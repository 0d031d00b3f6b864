"""The number is found by bisection at every level, and a bad reply costs a turn."""

from typing import Any

import pytest

from trieline.envs import make_env
from trieline.envs.errors import EnvError
from trieline.envs.game.guess_number import LEVEL_TURNS, first_in_range

ENV = "trieline/GuessNumber-v0"


@pytest.mark.parametrize("level", range(len(LEVEL_TURNS)))
def test_bisection_always_wins(level: int) -> None:
    turns = LEVEL_TURNS[level]
    for number in range(20, 20 + 2**turns - 1):
        env: Any = make_env(ENV).unwrapped
        env.reset(options={"task_id": f"20-{20 + 2**turns - 2}/{turns}/{number}"})
        assert sum(float(env.step(action)[1]) for action in env.demonstrate()) == 1.0


def test_every_message_tells_all_that_is_left() -> None:
    env = make_env(ENV)
    assert "from 10 to 24" in env.reset(options={"task_id": "10-24/4/11"})[0]
    assert env.step("16")[0].startswith("Choose 10, 11, 12, 13, 14 or 15.")
    assert env.step("10")[0] == env.reset(options={"task_id": "11-15/2/11"})[0]
    assert env.step("12")[0].startswith("Choose 11. ")
    assert env.step("11")[0] == "Correct."


def test_a_bad_reply_costs_a_turn() -> None:
    env = make_env(ENV)
    first, _ = env.reset(options={"task_id": "10-12/2/11"})
    assert env.step("no idea")[:3] == (first, 0.0, False)
    observation, reward, terminated, _, info = env.step("99")
    assert (observation, reward, terminated) == ("Not one of the numbers.", 0.0, True)
    assert info["score"] == {"found": False, "number": 11, "guesses": "[]", "invalid": 2}


def test_first_number_in_range_is_the_guess() -> None:
    assert first_in_range("I had 3 tries, so 12, or 13?", 10, 16) == 12
    assert first_in_range("It is 1,012.", 1000, 1062) == 1012
    assert first_in_range("It is 1,012.", 1, 60) is None
    assert first_in_range("12.5, 1e11, x11", 10, 16) is None
    assert first_in_range("9" * 10_000, 10, 16) is None
    assert first_in_range("١٢", 10, 16) is None


def test_ranges_of_the_test_split_are_new() -> None:
    ranges = {}
    for split in ("train", "test"):
        env = make_env(ENV, split=split)
        ranges[split] = {env.reset(seed=s)[1]["task_id"].split("/")[0] for s in range(300)}
    assert not ranges["train"] & ranges["test"]
    assert len(ranges["test"]) >= 8


def test_ranges_start_no_higher_than_told() -> None:
    env: Any = make_env(ENV, lowest=2).unwrapped
    starts = {env.parse_task(env.reset(seed=seed)[1]["task_id"]).low for seed in range(20)}
    assert starts <= {1, 2}
    with pytest.raises(EnvError, match=r"expected lowest in 1\.\.1000000, got 0"):
        make_env(ENV, lowest=0)
