"""Expressions are read exactly and without surprises, and make the target out of the numbers once each."""

import contextlib
import operator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.errors import TaskError
from trieline.envs.game.countdown import LEVELS, Countdown
from trieline.envs.game.expressions import ExpressionError, last_expression, value_and_numbers

TASK = "3,5,7=22:3*5+7"
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
Valued = tuple[str, Fraction | None]
"""A text and its value, None where it divides by zero."""


def joined(left: Valued, sign: str, right: Valued) -> Valued:
    text = f"({left[0]}{sign}{right[0]})"
    if left[1] is None or right[1] is None or (sign == "/" and not right[1]):
        return text, None
    return text, SIGNS[sign](left[1], right[1])


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(lambda number: (str(number), Fraction(number))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: joined(*parts)),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_values_are_exact(valued: Valued) -> None:
    text, value = valued
    if value is None:
        with pytest.raises(ExpressionError, match="divides by zero"):
            value_and_numbers(text)
    else:
        assert value_and_numbers(text)[0] == value


@pytest.mark.parametrize(
    ("text", "value"), [("2+3*4", 14), ("8-2-1", 5), ("8/2/2", 2), ("2*(3+4)", 14), ("1/3", Fraction(1, 3))]
)
def test_signs_bind_as_usual(text: str, value: Fraction) -> None:
    assert value_and_numbers(text)[0] == value


@pytest.mark.parametrize(
    "text",
    ["", "(", "()", "1+", "+1", "1 2", "2**3", "1//2", "(1+2", "1+2)", "-1", "1.5", "x", "1+(" * 40,
     "1234567", "1+" * 40 + "1", "(" * 5000],
)  # fmt: skip
def test_anything_else_is_no_expression(text: str) -> None:
    with pytest.raises(ExpressionError):
        value_and_numbers(text)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    if expression := last_expression(text):
        with contextlib.suppress(ExpressionError):
            value_and_numbers(expression)


@pytest.mark.parametrize(
    ("reply", "expression"),
    [
        ("3 + 5 = 8", "3+5"),
        ("8 = 3 + 5", "3+5"),
        ("The answer is 3 + 5.", "3+5"),
        ("1. 3 + 5", "3+5"),
        ("- 3 + 5", "3+5"),
        ("**(3+5) × 2**", "(3+5)*2"),
        (r"$3 \times 5$", "3*5"),
        ("3 x 5", "3*5"),
        ("3+5=8\n8-5=3", "8-5"),
        ("3.5+2", None),
        ("5e3+1", None),
        ("a3+5", None),
        ("Make 8 out of 3 and 5 with + - * /", None),
        ("8", None),
    ],
)
def test_the_last_expression_counts(reply: str, expression: str | None) -> None:
    assert last_expression(reply) == expression


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("22", "There is no expression in that."),
        ("11*2", "It uses 11, which is not one of the numbers."),
        ("3*5+7+3-3", "It uses 3, more often than it is there."),
        ("3*5", "3*5 is 15, not 22."),
        ("5/7", "5/7 is 5/7, not 22."),
        ("3/(5-5)", "The expression divides by zero."),
        ("3**5", "The expression can't be read at *5."),
    ],
)
def test_faults_are_told(reply: str, fault: str) -> None:
    env = Countdown()
    question, _ = env.reset(options={"task_id": TASK})
    assert env.step(reply)[:3] == (f"{fault} {question}", 0.0, False)
    assert env.step(question)[1:3] == (0.0, True)


def test_any_way_to_the_target_will_do() -> None:
    env = Countdown()
    for way in ("3*5+7", "7 + 5 × 3 = 22", "(5)*3+7"):
        env.reset(options={"task_id": TASK})
        assert env.step(way)[:3] == ("Correct.", 1.0, True)


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_every_task_has_a_way_and_its_question_none(level: int) -> None:
    env = Countdown(level=level, attempts=1)
    for seed in range(30):
        question, info = env.reset(seed=seed)
        assert env.step(question)[1] == 0.0
        env.reset(options={"task_id": info["task_id"]})
        assert env.step(env.solution())[1] == 1.0


@pytest.mark.parametrize(
    "task_id", ["", "3,5=8", "3,5=9:3+5", "3,5=8:3+5+0", "8,0=8:8+0", "3,5=3:3+5-5", "3,5=8:(3+5", "3=3:3"]
)  # fmt: skip
def test_impossible_targets_are_refused(task_id: str) -> None:
    with pytest.raises(TaskError):
        Countdown().reset(options={"task_id": task_id})
