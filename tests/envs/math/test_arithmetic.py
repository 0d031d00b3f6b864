"""Arithmetic: right values, right levels, and nothing to be won by copying the question."""

import random
from typing import Any

import pytest

from trieline.envs import make_env
from trieline.envs.math.arithmetic import LEVELS, Arithmetic, last_integer

ENV = "trieline/Arithmetic-v0"


@pytest.mark.parametrize(
    ("task_id", "value"),
    [
        ("3 + 4", "7"),
        ("12 - 30", "-18"),
        ("2 + 3 * 4", "14"),
        ("2 * 3 - 4", "2"),
        ("9 - 3 - 2", "4"),
        ("9 * 3 * 2", "54"),
    ],
)
def test_values_follow_the_precedence(task_id: Any, value: str) -> None:
    env: Any = make_env(ENV).unwrapped
    env.reset(options={"task_id": task_id})
    assert env.solution() == value


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_no_part_of_the_question_scores(level: int) -> None:
    env = make_env(ENV, level=level)
    for seed in range(100):
        question, info = env.reset(seed=seed)
        expression = info["task_id"]
        for copied in (question, expression, expression + " =", *expression.split(" ")):
            env.reset(options={"task_id": expression})
            assert env.step(copied)[1] == 0.0


@pytest.mark.parametrize(
    "reply", ["7", "7.", " The answer is 7.", "3 + 4 = 7", "It is **7**", "3 plus 4 is 7!", "'7'"]
)
def test_replies_that_end_in_the_number_are_right(reply: str) -> None:
    env = make_env(ENV)
    env.reset(options={"task_id": "3 + 4"})
    assert env.step(reply)[1] == 1.0


@pytest.mark.parametrize("reply", ["9801", "9,801", "9 801", "9_801", "$9,801$", "**9,801**.", "９８０１"])
def test_grouped_digits_are_one_number(reply: str) -> None:
    env = make_env(ENV)
    for task, right in (("99 * 99", True), ("900 - 99", False)):  # 9801 and 801
        env.reset(options={"task_id": task})
        assert env.step(reply)[1] == float(right)


def test_every_answer_may_be_grouped() -> None:
    env: Any = make_env(ENV, level=4).unwrapped
    for seed in range(50):
        env.reset(seed=seed)
        assert env.step(f"The answer is {int(env.solution()):,}.")[1] == 1.0


@pytest.mark.parametrize("reply", ["8", "-7", "7 or 8", "7.5", "x7", "7x", "", "3 + 4", "7 = 3 + 4", "٧"])
def test_other_replies_are_wrong(reply: str) -> None:
    env = make_env(ENV)
    env.reset(options={"task_id": "3 + 4"})
    _, reward, terminated, _, info = env.step(reply)
    assert (reward, terminated) == (0.0, True)
    assert info["score"]["gold"] == "7"


def test_minus_signs_of_both_kinds_count() -> None:
    assert (last_integer("it is -7."), last_integer("it is −7."), last_integer("9-7")) == ("-7", "-7", "7")


def test_the_order_of_operands_does_not_change_the_split() -> None:
    env = Arithmetic()
    rng = random.Random(0)
    for _ in range(200):
        a, b, c = (rng.randint(1, 99) for _ in range(3))
        for left, right in ((f"{a} + {b}", f"{b} + {a}"), (f"{a} * {b} + {c}", f"{c} + {b} * {a}")):
            assert env.in_test(env.parse_task(left)) == env.in_test(env.parse_task(right))


def test_levels_grow() -> None:
    first, last = (
        {make_env(ENV, level=level).reset(seed=s)[1]["task_id"] for s in range(50)} for level in (0, 5)
    )
    assert max(map(len, first)) == len("9 + 9")
    assert min(map(len, last)) >= len("2 * 2 * 2")
    held_out = {make_env(ENV, split="test").reset(seed=s)[1]["task_id"] for s in range(200)}
    assert len(held_out) >= 10
