"""`trieline/PettingZoo-v0`: a game of PettingZoo's AEC interface, all seats the policy's, or one of them.

    make_env("trieline/PettingZoo-v0", env="my_games:nim", opponents=["self", "random"])

`env` names a function that makes a `pettingzoo.AECEnv`. Its observations and actions are text, or its actions
are discrete, and then they are played by name (`worded_table`). Rewards are the game's own.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Discrete

from trieline.envs.errors import EnvError, GraderError, TaskError
from trieline.envs.game.spiel_game import OBSERVATION
from trieline.envs.text_env import Split, TextEnv, Turn
from trieline.envs.text_space import Text

SELF = "self"
OPPONENTS = (SELF, "random", "first")
MOST_LEVELS = 16
MOST_SEATS = 64
MAX_SEED = 2**31
MAX_DRAWS = 100
"""Of a game in which the agent has a move, before there is held to be none."""
MAX_MOVES = 100_000
"""Of others, before the agent's own."""

Script = Callable[[str, Sequence[str]], str]
"""What a seat is shown, and its legal moves where they are known, to its reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """The agent's seat, who sits on the others, and the seed of the game and of their luck."""

    opponent: str
    seat: int
    seed: int


class PettingZoo(TextEnv[Seat]):
    """Reward: what the game gives the agent's seat between two of its moves."""

    def __init__(
        self,
        *,
        env: str,
        settings: dict[str, Any] | None = None,
        opponents: list[str] | None = None,
        tell: str | None = None,
        name: str | None = None,
        mistakes: int = 2,
        split: Split = "train",
        level: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """`env`, `tell`, `name`: as `module:function`; see `worded_table` for the last two.

        `settings`: arguments of `env`. `opponents`: by level, `self` for the policy at all seats, or who
        plays the others: `random` or `first` of the legal moves, or a `module:function` of text and moves.

        Raises:
            EnvError: a function can't be loaded, or makes no table.
            TaskError: no such opponent.
        """
        if importlib.util.find_spec("pettingzoo") is None:
            msg = "trieline/PettingZoo-v0 needs the package pettingzoo: pip install trieline[players]"
            raise EnvError(msg)
        self.opponents = tuple(opponents or (SELF,))
        if len(self.opponents) > MOST_LEVELS:
            msg = f"expected at most {MOST_LEVELS} opponents, one a level, got {len(self.opponents)}"
            raise TaskError(msg)
        self.scripts = {named: _script(named) for named in self.opponents if named not in OPPONENTS}
        self._make = functools.partial(_loaded("env", env), **(settings or {}))
        self._tell = None if tell is None else _loaded("tell", tell)
        self._name = None if name is None else _loaded("name", name)
        self.mistakes = mistakes
        self.seats = list(self._new_table().possible_agents)
        if not 1 <= len(self.seats) <= MOST_SEATS:
            msg = f"expected 1 to {MOST_SEATS} possible_agents of {env}, got {len(self.seats)}"
            raise EnvError(msg)
        self.levels = len(self.opponents)
        super().__init__(split=split, level=level, render_mode=render_mode)
        self.observation_space = Text(OBSERVATION)
        self._tables: list[Any] = []

    def draw_task(self, level: int) -> Seat:
        for _ in range(MAX_DRAWS):
            seat, seed = (int(self.np_random.integers(most)) for most in (len(self.seats), MAX_SEED))
            task = Seat(opponent=self.opponents[level], seat=seat, seed=seed)
            if self._opened(task) is not None:
                return task
        msg = f"no game in {MAX_DRAWS} gave the agent a move"
        raise EnvError(msg)

    def task_id(self, task: Seat) -> str:
        return f"{task.opponent}/{task.seat}/{task.seed}"

    def parse_task(self, task_id: str) -> Seat:
        opponent, seat, seed = task_id.rsplit("/", 2)
        if opponent not in self.opponents or not all(
            re.fullmatch(r"0|[1-9]\d{0,9}", text, re.ASCII) for text in (seat, seed)
        ):
            msg = f"expected 'opponent/seat/seed' with an opponent out of {self.opponents}"
            raise ValueError(msg)
        task = Seat(opponent=opponent, seat=int(seat), seed=int(seed))
        if task.seat >= len(self.seats) or task.seed >= MAX_SEED or self._opened(task) is None:
            msg = f"expected a seat below {len(self.seats)} that comes to move, a seed below {MAX_SEED}"
            raise ValueError(msg)
        return task

    def begin(self, task: Seat) -> str:
        opened = self._opened(task)
        assert opened is not None, "tasks without a move for the agent are neither drawn nor read"
        self.game, self.rng = opened
        return str(self.game.last()[0])

    def act(self, action: str) -> Turn:
        self.game.step(action)
        self._play_others(self.game, self.task, self.rng)
        text, reward, terminated, truncated, info = self.game.last()
        over = bool(terminated or truncated)
        score = info.get("score", {})
        told = dict(score) if isinstance(score, Mapping) else {"score": score}
        return Turn(
            observation=str(text),
            reward=float(reward),
            over=over,
            score={"opponent": self.task.opponent, **told} if over else {},
        )

    def table(self) -> Any:
        """See `protocols.Tabled`."""
        if self.task.opponent != SELF:
            return None
        table = self._new_table()
        self._tables.append(table)
        table.reset(seed=self.task.seed)
        return table

    def close(self) -> None:
        """With its tables."""
        for table in self._tables:
            table.close()
        self._tables.clear()
        super().close()

    def _opened(self, task: Seat) -> tuple[Any, np.random.Generator] | None:
        """The game at the agent's first move; None if it is over before."""
        table, rng = self._new_table(), np.random.default_rng(task.seed)
        table.reset(seed=task.seed)
        self._play_others(table, task, rng)
        agent = table.agent_selection
        return None if table.terminations[agent] or table.truncations[agent] else (table, rng)

    def _play_others(self, table: Any, task: Seat, rng: np.random.Generator) -> None:
        """Until the agent's seat is selected: to move, or since its game is over."""
        mine = self.seats[task.seat]
        for _ in range(MAX_MOVES):
            if table.agent_selection == mine:
                return
            text, _, terminated, truncated, info = table.last()
            over = terminated or truncated
            table.step(None if over else self._reply(task, str(text), info.get("moves", ()), rng))
            if not table.agents:
                break
        msg = f"expected a turn of {mine} within {MAX_MOVES} moves of others, or its end"
        raise GraderError(msg)

    def _reply(self, task: Seat, text: str, moves: Sequence[str], rng: np.random.Generator) -> str:
        if (script := self.scripts.get(task.opponent)) is not None:
            return str(script(text, moves))
        if not moves:
            msg = (
                f"the opponent {task.opponent!r} needs to know the legal moves: expected them as infos[agent]"
                "['moves'] of who is to move, or discrete actions, found neither"
            )
            raise EnvError(msg)
        # Through this interface there is no second player to ask: where the opponent is `self`, too.
        return moves[0 if task.opponent == "first" else int(rng.random() * len(moves))]

    def _new_table(self) -> Any:
        from pettingzoo import AECEnv

        from trieline.envs.players.worded_table import WordedTable

        table: Any = self._make()
        if not isinstance(table, AECEnv):
            msg = f"expected env to make a pettingzoo.AECEnv, got {type(table).__name__}"
            raise EnvError(msg)
        if all(isinstance(table.action_space(agent), Discrete) for agent in table.possible_agents):
            return WordedTable(table, tell=self._tell, name=self._name, mistakes=self.mistakes)
        if self._tell is not None or self._name is not None:
            msg = "expected tell and name with discrete actions alone: this game speaks for itself"
            raise EnvError(msg)
        return table


def _script(named: str) -> Script:
    if ":" not in named:
        msg = f"expected opponents out of {OPPONENTS}, or a module:function, got {named!r}"
        raise TaskError(msg)
    return _loaded("opponents", named)


def _loaded(what: str, named: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = load_env_creator(named)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"expected {what} as module:function, got {named!r}: {error}"
        raise EnvError(msg) from error
    return found
