"""Environments that behave, and environments that do not."""

import copy
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import gymnasium
from gymnasium.spaces import Text

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import shared_pool

COUNTING = "tests.actors.fake_envs:fake/Counting-v0"
FAULTY = "tests.actors.fake_envs:fake/Faulty-v0"
UNFORKABLE = "tests.actors.fake_envs:fake/Unforkable-v0"
FINISHING = "tests.actors.fake_envs:fake/Finishing-v0"
POOLED = "tests.actors.fake_envs:fake/Pooled-v0"
LISTING = "tests.actors.fake_envs:fake/Listing-v0"
BOXED = "tests.actors.fake_envs:fake/Boxed-v0"
RESTLESS = "tests.actors.fake_envs:fake/Restless-v0"

released = threading.Event()
"""Set it to let the calls that hang come back."""
closed: list[str] = []
"""Classes of the environments that were closed, in order."""
open_now: Counter[str] = Counter()
"""Environments that are open, by class."""


class Counting(gymnasium.Env[str, str]):
    """`turns` turns. The reward of a turn is the share of turns so far if the reply is "good", else 0."""

    def __init__(self, *, turns: int = 3, split: str = "train") -> None:
        self.observation_space = Text(1000)
        self.action_space = Text(1000)
        self.turns = turns
        self.split = split
        self.turn = 0
        self.history: list[str] = []
        self.is_closed = False
        open_now[type(self).__name__] += 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        asked = options or {}
        self.turn, self.history = 0, []
        self.task = asked.get("task_id", f"{self.split}-{seed}-{asked.get('level', 0)}")
        return f"task {self.task}", {"task_id": self.task}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        self.history.append(action)
        over = self.turn == self.turns
        reward = self.turn / self.turns if action == "good" else 0.0
        info = {"task_id": self.task, **({"score": {"said": action}} if over else {})}
        return f"turn {self.turn} after {'/'.join(self.history)}", reward, over, False, info

    def close(self) -> None:
        if not self.is_closed:
            open_now[type(self).__name__] -= 1
        self.is_closed = True
        closed.append(type(self).__name__)

    def demonstrate(self) -> Iterator[str]:
        while self.turn < self.turns:
            yield "good"


class Listing(Counting):
    """Lists its tasks, of which it takes some, and `deaf` hears of none."""

    def __init__(self, *, answer: str = "good") -> None:
        super().__init__(turns=1)
        self.answer = answer

    def task_ids(self, split: str) -> Any:
        if self.answer == "hang":
            released.wait()
        if self.answer == "fail":
            raise KeyError(split)
        answers = {
            "twice": ["a", "b", "a"],
            "numbers": [1, 2],
            "text": "ab",
            "none": [],
            "both": ["a", "b"],
            "long": ["a" * 201],
            "many": [f"{number}" for number in range(100_001)],
            "surrogate": ["\ud800"],
        }
        return answers.get(self.answer, [f"{split} {number}" for number in range(5)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        if (options or {}).get("task_id") == "gone":
            msg = "no such row"
            raise KeyError(msg)
        return super().reset(seed=seed, options=None if self.answer == "deaf" else options)


class Forkable(Counting):
    def fork(self) -> Self:
        open_now[type(self).__name__] += 1
        return copy.deepcopy(self)


class Faulty(Forkable):
    """Fails in the way of `fault` at the turn `at`; 0 is reset."""

    def __init__(self, *, fault: str, at: int = 1, turns: int = 3) -> None:
        super().__init__(turns=turns)
        self.fault = fault
        self.at = at

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        if self.at == 0:
            observation, *_ = self._fail((observation, 0.0, False, False, info))
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        outcome = super().step(action)
        return self._fail(outcome) if self.turn == self.at else outcome

    def _fail(self, outcome: tuple[Any, ...]) -> Any:
        if self.fault == "raise":
            raise ZeroDivisionError("no luck")
        if self.fault == "exit":
            raise SystemExit(3)
        if self.fault == "vanish":
            os._exit(0)
        if self.fault == "sandbox":
            raise SandboxError("the container is gone")
        if self.fault == "hang":
            released.wait(60)
        if self.fault == "slow":
            time.sleep(0.2)
        observation, reward, terminated, truncated, info = outcome
        return {
            "nan": (observation, float("nan"), terminated, truncated, info),
            "huge": (observation, 1e300, terminated, truncated, info),
            "no_number": (observation, "much", terminated, truncated, info),
            "no_text": (None, reward, terminated, truncated, info),
            "no_info": (observation, reward, terminated, truncated, None),
            "four": (observation, reward, terminated, info),
            "surrogate": ("\ud800 <|im_end|>", reward, terminated, truncated, info),
            "flood": ("x" * 10_000_000, reward, terminated, truncated, info),
            "truncated": (observation, reward, False, True, info),
        }.get(self.fault, outcome)


class Finishing(Forkable):
    """Gives 2 for an episode that a limit cuts."""

    def __init__(self, *, turns: int, ending: str = "good") -> None:
        super().__init__(turns=turns)
        self.ending = ending

    def finish(self) -> Any:
        info = {"score": f"{self.turn} turns were enough"}
        return {"good": (2.0, info), "nan": (float("nan"), info), "nothing": None}[self.ending]


class Pooled(Forkable):
    """Grades in a process pool, whose workers it ends by SIGTERM, as graders of code do."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, _, over, truncated, info = super().step(action)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            reward = pool.apply(len, (action,)) / 4
        return observation, reward, over, truncated, info


class Boxed(Counting):
    """Borrows a sandbox of a pool, which keeps it for the worker's other episodes."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        with shared_pool("none").lend():
            return super().step(action)


class Restless(Counting):
    """Another task at each reset, whatever the seed."""

    resets = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        Restless.resets += 1
        return super().reset(seed=Restless.resets, options=options)


for name, entry in (
    ("Counting", Forkable),
    ("Faulty", Faulty),
    ("Unforkable", Counting),
    ("Restless", Restless),
    ("Finishing", Finishing),
    ("Listing", Listing),
    ("Pooled", Pooled),
    ("Boxed", Boxed),
):
    gymnasium.register(id=f"fake/{name}-v0", entry_point=entry, disable_env_checker=True)  # type: ignore[arg-type]
