"""Make a number out of others with + - * /, each of them once at most. The answer is an expression.

A task has a way to its target by construction. Levels go from the sum of two digits to six numbers.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from trieline.envs.errors import TaskError
from trieline.envs.game.expressions import ExpressionError, last_expression, value_and_numbers
from trieline.envs.text_env import Split, TextEnv, Turn

ATTEMPTS = (1, 20)
MAX_NUMBERS = 6
MAX_NUMBER = 9_999
TASK = re.compile(
    rf"(\d{{1,4}}(?:,\d{{1,4}}){{1,{MAX_NUMBERS - 1}}})=(\d{{1,4}}):([0-9+*/()-]{{3,100}})", re.ASCII
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How many numbers from 1 to `largest`, the signs that lead to the target, and the largest target."""

    numbers: int
    largest: int
    signs: str
    target: int


LEVELS = (
    Level(numbers=2, largest=9, signs="+", target=18),
    Level(numbers=2, largest=9, signs="+-*", target=81),
    Level(numbers=3, largest=9, signs="+-", target=27),
    Level(numbers=3, largest=12, signs="+-*/", target=99),
    Level(numbers=4, largest=25, signs="+-*/", target=199),
    Level(numbers=6, largest=100, signs="+-*/", target=999),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """`way` is an expression of some of `numbers` whose value is `target`, which is none of them."""

    numbers: tuple[int, ...]
    target: int
    way: str


class Countdown(TextEnv[Target]):
    """Reward 1 for an expression that makes the target. After a wrong one there are `attempts` - 1 more."""

    levels = len(LEVELS)

    def __init__(
        self, *, split: Split = "train", level: int = 0, attempts: int = 2, render_mode: str | None = None
    ) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        if not ATTEMPTS[0] <= attempts <= ATTEMPTS[1]:
            msg = f"expected attempts in {ATTEMPTS[0]}..{ATTEMPTS[1]}, got {attempts}"
            raise TaskError(msg)
        self.attempts = attempts

    def draw_task(self, level: int) -> Target:
        wanted = LEVELS[level]
        while True:
            numbers = tuple(
                int(n) for n in self.np_random.integers(1, wanted.largest + 1, size=wanted.numbers)
            )
            way, value = draw_way(numbers, wanted.signs, self.np_random)
            if 1 <= value <= wanted.target and value not in numbers:
                return Target(numbers=numbers, target=value, way=way)

    def task_id(self, task: Target) -> str:
        return f"{','.join(map(str, task.numbers))}={task.target}:{task.way}"

    def parse_task(self, task_id: str) -> Target:
        match = TASK.fullmatch(task_id)
        if not match:
            msg = f"expected 'number,number,...=target:expression' with 2 to {MAX_NUMBERS} numbers"
            raise ValueError(msg)
        numbers = tuple(map(int, match[1].split(",")))
        task = Target(numbers=numbers, target=int(match[2]), way=match[3])
        if (fault := fault_of(task.way, task)) or task.target in numbers or 0 in (*numbers, task.target):
            msg = fault or "expected a target that is none of the numbers, and no zero"
            raise ValueError(msg)
        return task

    def split_key(self, task: Target) -> str:
        """The way and the order of the numbers say nothing about the split."""
        return f"{sorted(task.numbers)}={task.target}"

    def begin(self, task: Target) -> str:
        self.attempts_left = self.attempts
        return self._ask()

    def act(self, action: str) -> Turn:
        self.attempts_left -= 1
        expression = last_expression(action)
        fault = fault_of(expression, self.task) if expression else "There is no expression in that."
        if fault is None:
            return Turn(observation="Correct.", reward=1.0, over=True, score=self._score(expression))
        if self.attempts_left:
            return Turn(observation=f"{fault} {self._ask()}")
        return Turn(observation=fault, over=True, score={**self._score(expression), "fault": fault})

    def solution(self) -> str:
        return self.task.way

    def _ask(self) -> str:
        *numbers, last = map(str, self.task.numbers)
        once = ", each number at most once" if len(numbers) > 1 else ""
        return (
            f"Make {self.task.target} out of {', '.join(numbers)} and {last} with + - * /{once}. "
            f'Reply with only the calculation, like "{self._example()}".'
        )

    def _example(self) -> str:
        """Of the numbers, and wrong: to copy it is not to solve it."""
        first, second = self.task.numbers[:2]
        examples = {f"{first} * {second}": first * second, f"{first} - {second}": first - second}
        return next(text for text, value in examples.items() if value != self.task.target)

    def _score(self, expression: str | None) -> dict[str, object]:
        used = self.attempts - self.attempts_left
        return {"expression": expression or "", "target": self.task.target, "attempts": used}


def fault_of(expression: str, task: Target) -> str | None:
    """What is wrong with an answer, None if it is right."""
    try:
        value, used = value_and_numbers(expression)
    except ExpressionError as error:
        return str(error)
    left = list(task.numbers)
    for number in used:
        if number not in left:
            known = (
                "more often than it is there" if number in task.numbers else "which is not one of the numbers"
            )
            return f"It uses {number}, {known}."
        left.remove(number)
    return None if value == task.target else f"{expression} is {_shown(value)}, not {task.target}."


def _shown(value: Fraction) -> str:
    return str(value) if max(abs(value.numerator), value.denominator) < 10**9 else "too large"


def draw_way(numbers: tuple[int, ...], signs: str, rng: np.random.Generator) -> tuple[str, int]:
    """A random expression of two or more of `numbers`, whole and positive all the way, and its value."""
    parts = [(str(numbers[i]), numbers[i]) for i in rng.permutation(len(numbers))]
    joins = len(parts) - 1 if len(parts) < 4 else int(rng.integers(2, len(parts)))
    for _ in range(joins):
        first, second = (parts.pop(int(rng.integers(len(parts)))) for _ in range(2))
        if first[1] < second[1]:
            first, second = second, first
        sign = signs[int(rng.integers(len(signs)))]
        if (sign == "/" and first[1] % second[1]) or (sign == "-" and first[1] == second[1]):
            sign = "+"
        value = {"+": first[1] + second[1], "-": first[1] - second[1], "*": first[1] * second[1]}.get(sign)
        parts.append((f"({first[0]}{sign}{second[0]})", first[1] // second[1] if value is None else value))
    text, result = parts[-1]
    return text[1:-1], result
