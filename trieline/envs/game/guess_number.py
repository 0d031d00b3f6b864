"""Guess a hidden number. Every message tells the range that is left: the last one is enough to play on.

A level hides one of 2^k - 1 numbers and gives k turns: bisection always wins, and nothing else does as well.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from trieline.envs.errors import TaskError
from trieline.envs.integers import integers
from trieline.envs.text_env import Split, TextEnv, Turn

LEVEL_TURNS = (2, 3, 4, 5, 6)
"""k by level: 3, 7, 15, 31 and 63 numbers."""
MAX_TURNS = 16
LOWEST = 60
"""The smallest number of a range is drawn from 1 to this, unless the environment is told otherwise."""
LOWEST_RANGE = (1, 1_000_000)
MAX_LISTED = 7
"""Numbers that a message lists singly; more are a range. A small model chooses better from a list."""
READ_LENGTH = 1_000
"""Characters of a reply that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenNumber:
    """`number` is one of `low..high`, to be found in `turns`."""

    low: int
    high: int
    turns: int
    number: int


class GuessNumber(TextEnv[HiddenNumber]):
    """Reward 1 for a hit. Ranges start at 1 to `lowest`: the more there are, the less it helps to know them.

    The first number of a reply that lies in the range is the guess; a reply without one uses up a turn.
    """

    levels = len(LEVEL_TURNS)
    test_share = 0.25

    def __init__(
        self,
        *,
        split: Split = "train",
        level: int = 0,
        lowest: int = LOWEST,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        if not LOWEST_RANGE[0] <= lowest <= LOWEST_RANGE[1]:
            msg = f"expected lowest in {LOWEST_RANGE[0]}..{LOWEST_RANGE[1]}, got {lowest}"
            raise TaskError(msg)
        self.lowest = lowest

    def draw_task(self, level: int) -> HiddenNumber:
        turns = LEVEL_TURNS[level]
        low = int(self.np_random.integers(1, self.lowest + 1))
        high = low + 2**turns - 2
        return HiddenNumber(
            low=low, high=high, turns=turns, number=int(self.np_random.integers(low, high + 1))
        )

    def task_id(self, task: HiddenNumber) -> str:
        return f"{task.low}-{task.high}/{task.turns}/{task.number}"

    def parse_task(self, task_id: str) -> HiddenNumber:
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})/(\d{1,2})/(\d{1,9})", task_id, re.ASCII)
        if not match:
            msg = "expected 'low-high/turns/number'"
            raise ValueError(msg)
        low, high, turns, number = map(int, match.groups())
        if not (low <= number <= high and 1 <= turns <= MAX_TURNS):
            msg = f"expected low <= number <= high and 1 to {MAX_TURNS} turns"
            raise ValueError(msg)
        return HiddenNumber(low=low, high=high, turns=turns, number=number)

    def split_key(self, task: HiddenNumber) -> str:
        """Whole ranges are held out: the number says nothing about the split."""
        return f"{task.low}-{task.high}"

    def begin(self, task: HiddenNumber) -> str:
        self.low, self.high, self.turns_left = task.low, task.high, task.turns
        self.guesses: list[int] = []
        self.invalid = 0
        return self._ask()

    def act(self, action: str) -> Turn:
        guess = first_in_range(action, self.low, self.high)
        self.turns_left -= 1
        if guess is None:
            self.invalid += 1
            return self._next("Not one of the numbers.")
        self.guesses.append(guess)
        if guess == self.task.number:
            return Turn(observation="Correct.", reward=1.0, over=True, score=self._score(found=True))
        if guess < self.task.number:
            self.low = guess + 1
            return self._next("Too low.")
        self.high = guess - 1
        return self._next("Too high.")

    def solution(self) -> str:
        return str(self.task.number)

    def demonstrate(self) -> Iterator[str]:
        while self.turns_left and not self._over:
            yield str((self.low + self.high) // 2)

    def _next(self, verdict: str) -> Turn:
        if self.turns_left:
            return Turn(observation=self._ask())
        return Turn(observation=verdict, over=True, score=self._score(found=False))

    def _ask(self) -> str:
        # The example is the worst sensible guess: to copy it is not to play well.
        return f'Choose {_choices(self.low, self.high)}. Reply with only the number, like "{self.low}".'

    def _score(self, *, found: bool) -> dict[str, object]:
        return {
            "found": found,
            "number": self.task.number,
            "guesses": str(self.guesses),
            "invalid": self.invalid,
        }


def first_in_range(reply: str, low: int, high: int) -> int | None:
    """The first integer of a reply that is a possible guess, None if there is none."""
    named = map(int, integers(reply[:READ_LENGTH]))
    return next((number for number in named if low <= number <= high), None)


def _choices(low: int, high: int) -> str:
    if high - low >= MAX_LISTED:
        return f"a number from {low} to {high}"
    *numbers, last = [str(number) for number in range(low, high + 1)]
    return f"{', '.join(numbers)} or {last}" if numbers else last
