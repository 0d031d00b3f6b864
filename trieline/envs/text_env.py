"""The base of our own environments: tasks by level and split, chosen by seed or by name.

Nothing asks for this class: any `gymnasium.Env[str, str]` can be trained on. What it promises is that the
same seed gives the same task, that `info["task_id"]` names the task for ever, that a task belongs to one
split only, and that a fork is an independent copy in the same state.
"""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

import gymnasium
from gymnasium.error import ResetNeeded

from trieline.common.text import LINES, visible
from trieline.envs.errors import TaskError
from trieline.envs.text_space import Text

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TaskT = TypeVar("TaskT")

OBSERVATION_LENGTH = 4096
"""Code points; more than any of our messages has."""
ACTION_LENGTH = 1_000_000
"""Code points. Generous: a policy may write what it likes, and each environment bounds what it reads."""
RESET_OPTIONS = ("level", "task_id")
MAX_DRAWS = 10_000
"""Draws for one task of the wanted split, before the environment is held to be broken."""


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

    levels: int
    test_share = 0.2
    """Of all tasks, as far as `in_test` is not replaced."""
    reset_options: tuple[str, ...] = RESET_OPTIONS
    """Those that `reset` takes; what they say is in `chosen` while a task is drawn."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, *, split: Split = "train", level: int = 0, render_mode: str | None = None) -> None:
        if render_mode not in (None, "ansi"):
            msg = f"expected render_mode None or 'ansi', got {render_mode!r}"
            raise TaskError(msg)
        self.split = _known_split(split)
        self.level = self._known_level(level)
        self.render_mode = render_mode
        self.observation_space = Text(OBSERVATION_LENGTH)
        self.action_space = Text(ACTION_LENGTH)
        self.chosen: dict[str, Any] = {}
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
        """The task of that name, never None. Raises ValueError for any other text."""

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
        return is_held_out(self.split_key(task), self.test_share)

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
        if unknown := sorted(set(options) - set(self.reset_options)):
            msg = f"expected reset options out of {self.reset_options}, got {unknown}"
            raise TaskError(msg)
        self.chosen = options
        named = self._named_task(options)
        # A task may well be 0 or empty: it is the one that was named all the same.
        self._task = self._drawn_task(options) if named is None else named
        self._over = False
        observation = self.begin(self._task)
        self._transcript = []
        self._record(observation)
        self._task_id = self.task_id(self._task)
        return observation, {"task_id": self._task_id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._task is None or self._over:
            msg = f"{type(self).__name__}: the episode is {'over' if self._over else 'not begun'}; call reset"
            raise ResetNeeded(msg)
        turn = self.act(str(action))
        self._over = turn.over
        if self.render_mode == "ansi":
            self._record(f"> {action}", turn.observation)
        info: dict[str, Any] = {"task_id": self._task_id}
        if turn.over:
            info["score"] = dict(turn.score)
        return turn.observation, turn.reward, turn.over, False, info

    def render(self) -> str | None:
        """The episode so far, as a script."""
        return visible("\n".join(self._transcript), keep=LINES) if self.render_mode == "ansi" else None

    def _record(self, *lines: str) -> None:
        """Only for who will look: replies may be long, and every fork copies them."""
        if self.render_mode == "ansi":
            self._transcript += lines

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
            msg = f"{type(self).__name__} has no task {task_id!r:.200}: {error}"
            raise TaskError(msg) from error

    def _drawn_task(self, options: dict[str, Any]) -> TaskT:
        level = self._known_level(options.get("level", self.level))
        for _ in range(MAX_DRAWS):
            task = self.draw_task(level)
            if self.in_test(task) == (self.split == "test"):
                return task
        msg = f"no {self.split} task of level {level} in {MAX_DRAWS} draws"
        raise TaskError(msg)


class ListedTextEnv(TextEnv[TaskT]):
    """An environment whose tasks can be listed: define `all_tasks`, and `task_ids` follows from it.

    A data set's environment yields its rows here, and names each by what stays with the row for ever.
    """

    @abstractmethod
    def all_tasks(self) -> Iterable[TaskT]:
        """Every task of every level and split, in an order that never changes."""

    def task_ids(self, split: str) -> tuple[str, ...]:
        """See `protocols.Listed`. Raises TaskError for an unknown split."""
        in_test = _known_split(split) == "test"
        return tuple(self.task_id(task) for task in self.all_tasks() if self.in_test(task) == in_test)


def expect_field(prompt: str, field: str) -> str:
    """The prompt, if it has `{field}` in it. Raises TaskError if not."""
    if f"{{{field}}}" not in prompt:
        msg = f"expected a prompt with {{{field}}} in it, got {prompt[:100]!r}"
        raise TaskError(msg)
    return prompt


def is_held_out(key: str, share: float) -> bool:
    """Is what has this key among the share that is held out? By its SHA-256: the same on every machine."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _known_split(split: str) -> Split:
    for known in SPLITS:
        if split == known:
            return known
    msg = f"expected split to be one of {SPLITS}, got {split!r}"
    raise TaskError(msg)
