"""Integer arithmetic in one turn: the question in digits, the answer an integer literal.

No task has its answer among its operands, so that no copy of a part of the question ever scores.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trieline.envs.integers import integers
from trieline.envs.math.grading import grade
from trieline.envs.text_env import TextEnv, Turn

PROMPT = "What is {expression}? Reply with the number only."

READ_LENGTH = 2_000
"""Characters of a reply that are looked at, from its end."""
MAX_OPERANDS = 3
EXPRESSION = re.compile(rf"\d{{1,6}}(?: [-+*] \d{{1,6}}){{1,{MAX_OPERANDS - 1}}}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """Which operators, and the range of the operands for each (inclusive)."""

    operators: str
    operands: tuple[int, int]
    factors: tuple[int, int] = (2, 9)
    count: int = 2
    """Operands of one task."""
    negative: bool = False
    """Whether an answer may be below zero."""


LEVELS = (
    Level(operators="+", operands=(1, 9)),
    Level(operators="+-", operands=(1, 20)),
    Level(operators="+-", operands=(10, 99)),
    Level(operators="+-*", operands=(10, 99), negative=True),
    Level(operators="+-*", operands=(100, 999), factors=(2, 99), negative=True),
    Level(operators="+-*", operands=(10, 99), factors=(2, 20), count=3, negative=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """`operands[0] operators[0] operands[1] ...`, products before sums."""

    operands: tuple[int, ...]
    operators: str

    def __str__(self) -> str:
        rest = (f" {sign} {operand}" for sign, operand in zip(self.operators, self.operands[1:], strict=True))
        return f"{self.operands[0]}{''.join(rest)}"

    def terms(self) -> list[tuple[str, tuple[int, ...]]]:
        """Signs and factors of the sum, in order."""
        terms: list[tuple[str, tuple[int, ...]]] = [("+", (self.operands[0],))]
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            if operator == "*":
                sign, factors = terms.pop()
                terms.append((sign, (*factors, operand)))
            else:
                terms.append((operator, (operand,)))
        return terms

    def value(self) -> int:
        return sum(math.prod(factors) * (-1 if sign == "-" else 1) for sign, factors in self.terms())


class Arithmetic(TextEnv[Expression]):
    """Reward 1 for the right number. The last integer in the reply is the answer (see `integers`)."""

    levels = len(LEVELS)

    def draw_task(self, level: int) -> Expression:
        while True:
            expression = _draw(LEVELS[level], self.np_random)
            value = expression.value()
            if value not in expression.operands and (value >= 0 or LEVELS[level].negative):
                return expression

    def task_id(self, task: Expression) -> str:
        return str(task)

    def parse_task(self, task_id: str) -> Expression:
        if not EXPRESSION.fullmatch(task_id):
            msg = (
                f"expected 2 to {MAX_OPERANDS} integers of up to 6 digits, ' + ', ' - ' or ' * ' between them"
            )
            raise ValueError(msg)
        words = task_id.split(" ")
        return Expression(operands=tuple(map(int, words[::2])), operators="".join(words[1::2]))

    def split_key(self, task: Expression) -> str:
        """Sums and products in any order are one task."""
        return str(sorted((sign, sorted(factors)) for sign, factors in task.terms()))

    def begin(self, task: Expression) -> str:
        return PROMPT.format(expression=task)

    def act(self, action: str) -> Turn:
        gold, answer = str(self.task.value()), last_integer(action)
        verdict = grade(gold, answer or "", form="integer")
        score = {
            "correct": verdict.correct,
            "reason": verdict.reason,
            "answer": (answer or "")[:100],
            "gold": gold,
        }
        observation = "Correct." if verdict.correct else "Wrong."
        return Turn(observation=observation, reward=float(verdict.correct), over=True, score=score)

    def solution(self) -> str:
        return str(self.task.value())

    def demonstrate(self) -> Iterator[str]:
        yield self.solution()


def last_integer(reply: str) -> str | None:
    """The last integer literal of a reply, None without one. Numbers within words or decimals are none."""
    found = [*integers(reply[-READ_LENGTH:])]
    return found[-1] if found else None


def _draw(level: Level, rng: np.random.Generator) -> Expression:
    operators = "".join(rng.choice(list(level.operators), size=level.count - 1))
    operands = []
    for i in range(level.count):
        in_product = "*" in operators[max(0, i - 1) : i + 1]
        low, high = level.factors if in_product else level.operands
        operands.append(int(rng.integers(low, high + 1)))
    return Expression(operands=tuple(operands), operators=operators)
