"""The base of our own environments: tasks by level and split, chosen by seed or by name.

Nothing asks for this class: any `gymnasium.Env[str, str]` can be trained on. What it promises is that the
same seed gives the same task, that `info["task_id"]` names the task for ever, that a task belongs to one
split only, and that a fork is an independent copy in the same state.
"""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args, runtime_checkable

import gymnasium
from gymnasium.error import ResetNeeded

from trieline.envs.errors import TaskError
from trieline.envs.text_space import Text

Split = Literal["train", "test"]
TaskT = TypeVar("TaskT")

OBSERVATION_LENGTH = 4096
"""Code points; more than any of our messages has."""
ACTION_LENGTH = 1_000_000
"""Code points. Generous: a policy may write what it likes, and each environment bounds what it reads."""
RESET_OPTIONS = ("level", "task_id")
MAX_DRAWS = 10_000
"""Draws for one task of the wanted split, before the environment is held to be broken."""


@runtime_checkable
class Forkable(Protocol):
    """Can be branched in the middle of an episode."""

    def fork(self) -> "gymnasium.Env[str, str]":
        """An independent copy in the same state: the same actions give the same observations."""


@runtime_checkable
class Solvable(Protocol):
    """Knows the answer to its task."""

    def solution(self) -> str | None:
        """The action that ends this episode with the full reward at once, None where no single one does."""


@runtime_checkable
class Demonstrable(Protocol):
    """Can show how an expert goes on."""

    def demonstrate(self) -> Iterator[str]:
        """Expert actions from the present state on.

        Each one reads the state that the one before it led to: step with it before the next is taken.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What an action led to."""

    observation: str
    reward: float = 0.0
    over: bool = False
    score: dict[str, Any] = field(default_factory=dict)
    """Explains the reward; in `info` at the end of the episode."""


class TextEnv(gymnasium.Env[str, str], Generic[TaskT]):
    """One task an episode. `levels` counts from 0, the easiest."""

    levels: ClassVar[int]
    test_share: ClassVar[float] = 0.2
    """Of all tasks, as far as `in_test` is not replaced."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, *, split: Split = "train", level: int = 0, render_mode: str | None = None) -> None:
        if split not in get_args(Split):
            msg = f"expected split to be one of {get_args(Split)}, got {split!r}"
            raise TaskError(msg)
        if render_mode not in (None, "ansi"):
            msg = f"expected render_mode None or 'ansi', got {render_mode!r}"
            raise TaskError(msg)
        self.split = split
        self.level = self._known_level(level)
        self.render_mode = render_mode
        self.observation_space = Text(OBSERVATION_LENGTH)
        self.action_space = Text(ACTION_LENGTH)
        self._task: TaskT | None = None
        self._over = False
        self._transcript: list[str] = []

    # ---- what an environment defines

    @abstractmethod
    def draw_task(self, level: int) -> TaskT:
        """A random task of this level, of either split, out of `self.np_random`."""

    @abstractmethod
    def task_id(self, task: TaskT) -> str:
        """The name of a task; `parse_task` gives the task back."""

    @abstractmethod
    def parse_task(self, task_id: str) -> TaskT:
        """The task of that name. Raises ValueError for any other text."""

    @abstractmethod
    def begin(self, task: TaskT) -> str:
        """Set the state of a new episode and return its first observation."""

    @abstractmethod
    def act(self, action: str) -> Turn:
        """One turn of a running episode."""

    def split_key(self, task: TaskT) -> str:
        """What decides the split. Tasks with equal keys, such as 3 + 4 and 4 + 3, fall into the same."""
        return self.task_id(task)

    def in_test(self, task: TaskT) -> bool:
        """Whether the task is held out. A property of the task alone, the same on every machine."""
        digest = hashlib.sha256(self.split_key(task).encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.test_share * 2**32

    def shared_by_forks(self) -> tuple[object, ...]:
        """What holds no state of the episode, and would be most of the cost of a copy."""
        return self.observation_space, self.action_space, self.spec

    # ---- what it gets

    @property
    def task(self) -> TaskT:
        if self._task is None:
            msg = f"{type(self).__name__} has no task before its first reset"
            raise ResetNeeded(msg)
        return self._task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Options: `level` for this one instead of the constructor's; `task_id` for that very task, whatever
        its level and split. Raises TaskError for any other.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - set(RESET_OPTIONS)):
            msg = f"expected reset options out of {RESET_OPTIONS}, got {unknown}"
            raise TaskError(msg)
        self._task = self._named_task(options) or self._drawn_task(options)
        self._over = False
        observation = self.begin(self._task)
        self._transcript = [observation]
        return observation, {"task_id": self.task_id(self._task)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._task is None or self._over:
            msg = f"{type(self).__name__}: the episode is {'over' if self._over else 'not begun'}; call reset"
            raise ResetNeeded(msg)
        turn = self.act(str(action))
        self._over = turn.over
        self._transcript += [f"> {action}", turn.observation]
        info: dict[str, Any] = {"task_id": self.task_id(self._task)}
        if turn.over:
            info["score"] = dict(turn.score)
        return turn.observation, turn.reward, turn.over, False, info

    def render(self) -> str | None:
        """The episode so far, as a script."""
        return "\n".join(self._transcript) if self.render_mode == "ansi" else None

    def fork(self) -> Self:
        return copy.deepcopy(self, {id(part): part for part in self.shared_by_forks()})

    # ---- choice of the task

    def _known_level(self, level: Any) -> int:
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level < self.levels:
            msg = f"expected a level of {type(self).__name__} in 0..{self.levels - 1}, got {level!r}"
            raise TaskError(msg)
        return level

    def _named_task(self, options: dict[str, Any]) -> TaskT | None:
        if "task_id" not in options:
            return None
        task_id = options["task_id"]
        try:
            return self.parse_task(task_id)
        except (ValueError, TypeError, AttributeError) as error:
            msg = f"{type(self).__name__} has no task {task_id!r}: {error}"
            raise TaskError(msg) from error

    def _drawn_task(self, options: dict[str, Any]) -> TaskT:
        level = self._known_level(options.get("level", self.level))
        for _ in range(MAX_DRAWS):
            task = self.draw_task(level)
            if self.in_test(task) == (self.split == "test"):
                return task
        msg = f"no {self.split} task of level {level} in {MAX_DRAWS} draws"
        raise TaskError(msg)
