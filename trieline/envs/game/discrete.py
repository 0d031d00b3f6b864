"""Worlds with a few actions (`Discrete`), told and played in words: the layer between Gymnasium and text.

A subclass says which words are which actions and how an observation reads; the layer reads a reply, counts
the turns, and scores the end. `SeededEnv` takes any such world, a task being the seed of its reset.
`TabularEnv` takes one with a table of transitions (`P` and `s`, as in Gymnasium's own): there a task is a
start state, its level is how far that is from the goal, and the expert is a search over the table.
"""

import copy
import functools
import itertools
import math
import re
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from trieline.envs.text_env import Split, TaskT, TextEnv, Turn

READ_LENGTH = 1_000
"""Characters of a reply that are looked at."""
MAX_SEED = 2**31
MAX_TURNS = 999
KEPT_WORLDS = 16
"""In a process, each with its table."""
UNKNOWN = "That names no action. "
SHARED_TABLES = ("P", "desc", "initial_state_distrib", "observation_space", "action_space", "_cliff")
"""What worlds of Gymnasium's hold and never change."""

Outcome = tuple[float, int, float, bool]
"""Probability, following state, reward, whether the episode is over."""
Table = Mapping[int, Mapping[int, list[Outcome]]]
"""What may follow from each state and action."""


class DiscreteEnv(TextEnv[TaskT]):
    """The first action that a reply names is taken. A reply without one uses up a turn, and is told so."""

    actions: ClassVar[Mapping[str, int]]
    """Words and the world's actions. Where an action has several names, the first one is shown."""
    unknown: ClassVar[str] = UNKNOWN
    out_of_turns: ClassVar[str] = "No moves left."
    ask: ClassVar[str]
    """The last line of a message: made out of `actions` unless a subclass sets its own."""
    _reader: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "actions" in vars(cls):
            cls.actions = {name.lower(): number for name, number in cls.actions.items()}
            names = sorted(cls.actions, key=len, reverse=True)
            cls._reader = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
            if "ask" not in vars(cls):
                cls.ask = asking(cls.actions)

    # ---- what a world defines

    @abstractmethod
    def open_world(self, task: TaskT) -> tuple[Any, Any]:
        """The world at the start of this task, and its first observation."""

    @abstractmethod
    def turns_of(self, task: TaskT) -> int:
        """Replies until the episode is over."""

    @abstractmethod
    def tell(self, observation: Any) -> str:
        """What the agent reads of an observation, all that the next action depends on."""

    def verdict(self, reward: float) -> tuple[str, float, str]:
        """The last message, our reward (0 to 1), and a word for it, where the world ended with its reward."""
        return ("You won.", 1.0, "won") if reward > 0 else ("You lost.", 0.0, "lost")

    # ---- what it gets

    def begin(self, task: TaskT) -> str:
        self.world, self.observation = self.open_world(task)
        self.moves_left, self.invalid = self.turns_of(task), 0
        return self.view()

    def act(self, action: str) -> Turn:
        self.moves_left -= 1
        named = self.named_action(action)
        if named is None:
            self.invalid += 1
            return self._next(self.unknown)
        self.observation, reward, terminated, truncated, _ = self.world.step(self.actions[named])
        if not (terminated or truncated):
            return self._next("")
        text, ours, end = self.verdict(float(reward))
        return Turn(observation=text, reward=ours, over=True, score=self._score(end))

    @classmethod
    def named_action(cls, reply: str) -> str | None:
        """The first action that a reply names, None if it names none."""
        word = cls._reader.search(reply[:READ_LENGTH])
        # Letters that are one for the search may be two for `lower`: the long s and s.
        return word[0].lower() if word and word[0].lower() in cls.actions else None

    def view(self) -> str:
        """The message of the present state."""
        return f"{self.tell(self.observation)}\n{self.ask}"

    def shared_by_forks(self) -> tuple[object, ...]:
        if self._task is None:
            return super().shared_by_forks()
        return *super().shared_by_forks(), *_tables(self.world)

    def _next(self, remark: str) -> Turn:
        if self.moves_left > 0:
            return Turn(observation=f"{remark}{self.view()}")
        return Turn(observation=self.out_of_turns, over=True, score=self._score("moves"))

    def _score(self, end: str) -> dict[str, object]:
        return {"end": end, "moves_left": self.moves_left, "invalid": self.invalid}


def _tables(world: Any) -> list[object]:
    held = vars(world)
    return [held[name] for name in SHARED_TABLES if name in held]


class SeededEnv(DiscreteEnv[int]):
    """A task is the seed of the world's reset: all its luck follows. Held out is what starts alike."""

    levels = 1
    turns: ClassVar[int]

    @abstractmethod
    def make_world(self) -> Any:
        """A world, without a limit of its own on the turns. It is reset for each episode."""

    def draw_task(self, level: int) -> int:
        return int(self.np_random.integers(MAX_SEED))

    def task_id(self, task: int) -> str:
        return str(task)

    def parse_task(self, task_id: str) -> int:
        if not re.fullmatch(r"0|[1-9]\d{0,9}", task_id, re.ASCII) or int(task_id) >= MAX_SEED:
            msg = f"expected a seed below {MAX_SEED}"
            raise ValueError(msg)
        return int(task_id)

    def split_key(self, task: int) -> str:
        # In a world of its own: an episode may be running.
        return repr(self.make_world().reset(seed=task)[0])

    def turns_of(self, task: int) -> int:
        return self.turns

    def open_world(self, task: int) -> tuple[Any, Any]:
        if not hasattr(self, "world"):
            self.world = self.make_world()
        observation, _ = self.world.reset(seed=task)
        return self.world, observation


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A state of the world's table to start from, and the replies allowed."""

    state: int
    moves: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """Of a level: how many moves its starts are away from the goal, and how many are allowed beyond them."""

    fewest: int
    most: int
    spare: int


class TabularEnv(DiscreteEnv[Start]):
    """A world with a table of transitions. Reward 1 where the world ends well within the moves allowed."""

    distances: ClassVar[tuple[Distance, ...]]
    """By level."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "distances" in vars(cls):
            cls.levels = len(cls.distances)

    def __init__(
        self, *, split: Split = "train", level: int = 0, render_mode: str | None = None, **world: Hashable
    ) -> None:
        """`world` goes to `make_world`."""
        super().__init__(split=split, level=level, render_mode=render_mode)
        kind: Any = type(self)
        self.made = _made(kind, frozenset(world.items()))

    @classmethod
    @abstractmethod
    def make_world(cls, **world: Any) -> Any:
        """A world with its table `P` and its state `s`. Made once in a process, and copied."""

    @classmethod
    def wins(cls, reward: float) -> bool:
        """Whether the world has ended well, by its last reward."""
        return reward > 0

    def can_start(self, state: int) -> bool:
        """Whether episodes may start in a state from which there is a way to the goal."""
        return True

    def draw_task(self, level: int) -> Start:
        wanted, ways = self.distances[level], self.made.ways
        starts = [
            state
            for state, moves in ways.items()
            if wanted.fewest <= moves <= wanted.most and self.can_start(state)
        ]
        state = starts[int(self.np_random.integers(len(starts)))]
        return Start(state=state, moves=ways[state] + wanted.spare)

    def task_id(self, task: Start) -> str:
        return f"{task.moves}:{task.state}"

    def parse_task(self, task_id: str) -> Start:
        match = re.fullmatch(r"([1-9]\d{0,2}):(0|[1-9]\d{0,8})", task_id, re.ASCII)
        if not match:
            msg = f"expected 'moves:state' with 1 to {MAX_TURNS} moves"
            raise ValueError(msg)
        moves, state = map(int, match.groups())
        if state not in self.made.ways or not self.can_start(state):
            msg = f"there is no way to the goal from state {state}"
            raise ValueError(msg)
        return Start(state=state, moves=moves)

    def split_key(self, task: Start) -> str:
        return str(task.state)

    def turns_of(self, task: Start) -> int:
        return task.moves

    def open_world(self, task: Start) -> tuple[Any, Any]:
        world = copy.copy(self.made.world)
        world.reset(seed=int(self.np_random.integers(MAX_SEED)))
        world.s = task.state
        return world, task.state

    def verdict(self, reward: float) -> tuple[str, float, str]:
        return ("You made it.", 1.0, "goal") if self.wins(reward) else ("You lost.", 0.0, "lost")

    def shared_by_forks(self) -> tuple[object, ...]:
        return *super().shared_by_forks(), self.made

    def solution(self) -> str | None:
        best = self._best()
        return (
            best
            if all(over and self.wins(float(reward)) for _, _, reward, over in self._outcomes(best))
            else None
        )

    def demonstrate(self) -> Iterator[str]:
        """By the shortest way. Where the world slips, as if it slipped to where that helps."""
        while self.moves_left and not self._over:
            yield self._best()

    def _best(self) -> str:
        ways = self.made.ways

        def moves_after(word: str) -> float:
            return min(
                (0 if self.wins(float(reward)) else math.inf) if over else ways.get(int(state), math.inf)
                for _, state, reward, over in self._outcomes(word)
            )

        return min(self.actions, key=moves_after)

    def _outcomes(self, word: str) -> list[Outcome]:
        return cast("list[Outcome]", self.world.P[int(self.world.s)][self.actions[word]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A world as it was made, and `moves_to_goal` of its table."""

    world: Any
    ways: Mapping[int, int]


@functools.lru_cache(maxsize=KEPT_WORLDS)
def _made(kind: Any, options: frozenset[tuple[str, Any]]) -> Made:
    world = kind.make_world(**dict(options))
    return Made(world=world, ways=moves_to_goal(world.P, kind.wins))


def moves_to_goal(table: Table, wins: Callable[[float], bool]) -> dict[int, int]:
    """The fewest moves to an end whose reward `wins`, of every state with a way there. Backwards, from it."""
    before: dict[int, set[int]] = {}
    ways: dict[int, int] = {}
    for state, actions in table.items():
        for _, following, reward, over in itertools.chain(*actions.values()):
            if not over:
                before.setdefault(int(following), set()).add(state)
            elif wins(float(reward)):
                ways[state] = 1
    queue = deque(ways)
    while queue:
        state = queue.popleft()
        for previous in before.get(state, set()) - ways.keys():
            ways[previous] = ways[state] + 1
            queue.append(previous)
    return ways


def asking(actions: Mapping[str, int]) -> str:
    """`Choose one word: up, down, left or right.`"""
    shown: dict[int, str] = {}
    for word, action in actions.items():
        shown.setdefault(action, word)
    *words, last = shown.values()
    return f"Choose one word: {', '.join(words)} or {last}."
