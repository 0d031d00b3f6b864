"""The number is found by bisection at every level, and a bad reply costs a turn."""

import pytest

from trieline.envs import make_env
from trieline.envs.game.guess_number import LEVEL_TURNS, first_in_range

ENV = "trieline/GuessNumber-v0"


@pytest.mark.parametrize("level", range(len(LEVEL_TURNS)))
def test_bisection_always_wins(level):
    turns = LEVEL_TURNS[level]
    for number in range(20, 20 + 2**turns - 1):
        env = make_env(ENV).unwrapped
        env.reset(options={"task_id": f"20-{20 + 2**turns - 2}/{turns}/{number}"})
        assert sum(env.step(action)[1] for action in env.demonstrate()) == 1.0


def test_every_message_tells_the_range_left():
    env = make_env(ENV)
    first, _ = env.reset(options={"task_id": "10-16/3/11"})
    assert "from 10 to 16" in first
    second = env.step("13")[0]
    assert second.startswith("Too high. Choose 10, 11 or 12.")
    assert "Guesses left: 2" in second
    assert env.step("10")[0].startswith("Too low. Choose 11 or 12.")


def test_a_bad_reply_costs_a_turn():
    env = make_env(ENV)
    env.reset(options={"task_id": "10-12/2/11"})
    observation, reward, terminated, _, _ = env.step("no idea")
    assert observation.startswith("That is not one of the numbers. Choose 10, 11 or 12.")
    assert (reward, terminated) == (0.0, False)
    _, reward, terminated, _, info = env.step("99")
    assert (reward, terminated) == (0.0, True)
    assert info["score"] == {"found": False, "number": 11, "guesses": "[]", "invalid": 2}


def test_first_number_in_range_is_the_guess():
    assert first_in_range("I had 3 tries, so 12, or 13?", 10, 16) == 12
    assert first_in_range("12.5, 1e11, x11", 10, 16) is None
    assert first_in_range("9" * 10_000, 10, 16) is None
    assert first_in_range("١٢", 10, 16) is None


def test_ranges_of_the_test_split_are_new():
    ranges = {}
    for split in ("train", "test"):
        env = make_env(ENV, split=split)
        ranges[split] = {env.reset(seed=s)[1]["task_id"].split("/")[0] for s in range(300)}
    assert not ranges["train"] & ranges["test"]
    assert len(ranges["test"]) >= 8
