"""A game whose replies differ in length from task to task, and stay long however well it is played.

The agent is asked to count up from a number, 3 to 24 numbers far, and in a second turn to count the same way
back. A turn earns half of the share of numbers that stand where they should.
"""

import re

import gymnasium

from trieline.envs.text_env import TextEnv, Turn

ENV_ID = "benchmarks/Counting-v0"
FEWEST, MOST = 3, 24
"""Numbers of one reply."""
HIGHEST_START = 50
NUMBER = re.compile(r"\d{1,6}")


class Counting(TextEnv[tuple[int, int]]):
    """A task is the first and the last number."""

    levels = 1

    def draw_task(self, level: int) -> tuple[int, int]:
        first = int(self.np_random.integers(1, HIGHEST_START))
        return first, first + int(self.np_random.integers(FEWEST, MOST + 1)) - 1

    def task_id(self, task: tuple[int, int]) -> str:
        return f"{task[0]}-{task[1]}"

    def parse_task(self, task_id: str) -> tuple[int, int]:
        """ValueError for what is no task."""
        first, last = map(int, task_id.split("-"))
        if not (1 <= first < HIGHEST_START and FEWEST <= last - first + 1 <= MOST):
            msg = f"expected a first and a last number, {FEWEST} to {MOST} in all, got {task_id!r}"
            raise ValueError(msg)
        return first, last

    def begin(self, task: tuple[int, int]) -> str:
        self._back = False
        first, last = task
        return f"Count from {first} to {last}. Write every number, with a space between, and nothing else."

    def act(self, action: str) -> Turn:
        first, last = self.task
        right = list(range(first, last + 1))
        if self._back:
            right.reverse()
        written = [int(found) for found in NUMBER.findall(action)[: 2 * MOST]]
        hits = sum(a == b for a, b in zip(written, right, strict=False))
        reward = 0.5 * hits / max(len(right), len(written))
        if self._back:
            return Turn(observation="", reward=reward, over=True, score={"hits": hits})
        self._back = True
        return Turn(observation=f"Now count back, from {last} to {first}, in the same way.", reward=reward)


gymnasium.register(id=ENV_ID, entry_point=f"{__name__}:Counting")
