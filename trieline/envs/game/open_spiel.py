"""The games of OpenSpiel in text: one seat is the agent's, the others are played here.

    make_env("trieline/OpenSpiel-v0", game="connect_four", opponent="mcts", simulations=50)

Everything that is left to luck (chance, opponents) comes out of one generator that the task seeds, and a fork
copies it with the state. Where players see all, a message shows the board and what the others played; where
they don't, it shows the agent's own information, which keeps what the agent has seen.

With the opponent `self` the game has a `table`, at which an actor has the policy play every seat; with
`earlier` an earlier version of it plays the others.
"""

import copy
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from trieline.envs.errors import EnvError, TaskError
from trieline.envs.game.move_names import MISTAKEN, named_actions
from trieline.envs.game.spiel_game import MAX_SEED, OBSERVATION, QUESTION, SpielGame, action_names, drawn
from trieline.envs.text_env import Split, TextEnv, Turn
from trieline.envs.text_space import Text

if TYPE_CHECKING:
    from trieline.envs.players.spiel_table import SpielTable

SELF, EARLIER = "self", "earlier"
OF_POLICY = (SELF, EARLIER)
"""Opponents that sit at a table with the policy, and are not played here."""
OPPONENTS = (*OF_POLICY, "random", "first", "mcts")
ALL_SEE = OPPONENTS[:-1]
"""Those that play games in which something is hidden, too."""
SIMULATIONS = (1, 100_000)
LEVEL_OPPONENTS = ("random", "mcts10", "mcts100")
"""Where no opponent is named: what sits there by level, with its simulations."""
MOST_LEVELS = 16
NO_OPPONENT = "alone"
MISTAKES = (0, 100)
MOST_OPENING = 1_000
MAX_DRAWS = 1_000
"""Of a game in which the agent has a move, before there is held to be none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deal:
    """The agent's seat, what sits on the others, and the seed of all luck."""

    opponent: str
    seat: int
    seed: int


class OpenSpiel(TextEnv[Deal]):
    """Reward: the agent's return between the game's smallest (0) and largest (1), so 0.5 for a common draw.

    A reply whose last line does not name exactly one legal move is asked for again; one more of them than
    `mistakes` loses, with reward 0.
    """

    def __init__(
        self,
        *,
        game: str = "tic_tac_toe",
        parameters: dict[str, Any] | None = None,
        opponent: str | None = None,
        simulations: int | None = None,
        opponents: list[str] | None = None,
        question: str = QUESTION,
        mistakes: int = 2,
        opening: int = 0,
        expert: str | None = None,
        split: Split = "train",
        level: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """`opponents`: by level, in place of one `opponent`; a search as `mcts20`, with its simulations.

        `question`: what a message says, with `{seen}` in it and any of `{played}` (by others since), `{you}`,
        `{moves}` and `{example}`.
        `opening`: games of `self` and `earlier` begin with at most so many random moves, drawn by the seed:
        who plays itself soon plays the same game always.

        `expert`: who demonstrates, as an opponent is named. Random moves show the rules alone.
        """
        self.game = SpielGame(game, parameters, question=question)
        self.name = self.game.name
        self.opponents = _by_level(self.game, opponent, simulations, opponents)
        self.levels = len(self.opponents)
        super().__init__(split=split, level=level, render_mode=render_mode)
        if not MISTAKES[0] <= mistakes <= MISTAKES[1]:
            msg = f"expected mistakes in {MISTAKES[0]}..{MISTAKES[1]}, got {mistakes}"
            raise TaskError(msg)
        if not 0 <= opening <= MOST_OPENING:
            msg = f"expected an opening of 0 to {MOST_OPENING} moves, got {opening}"
            raise TaskError(msg)
        self.mistakes, self.opening = mistakes, opening
        self.observation_space = Text(OBSERVATION)
        if expert is not None:
            if expert in OF_POLICY:
                msg = f"expected expert to be one of {OPPONENTS[2:]}, got {expert!r}"
                raise TaskError(msg)
            self.expert = _known(self.game, "expert", expert)
            # Who has no expert has no such method.
            self.demonstrate = self._moves_of_expert

    def draw_task(self, level: int) -> Deal:
        for _ in range(MAX_DRAWS):
            seat, seed = (
                int(self.np_random.integers(self.game.players)),
                self.np_random.integers(MAX_SEED),
            )
            deal = Deal(opponent=self.opponents[level], seat=seat, seed=int(seed))
            if self._opened(deal):
                return deal
        msg = f"{self.name}: no game in {MAX_DRAWS} gave the agent a move"
        raise EnvError(msg)

    def task_id(self, task: Deal) -> str:
        return f"{self.name}/{task.opponent}/{task.seat}/{task.seed}"

    def parse_task(self, task_id: str) -> Deal:
        name, _, rest = task_id.rpartition(")")
        match = re.fullmatch(
            r"/(alone|self|earlier|random|first|mcts[1-9]\d{0,4}|mcts100000)/(\d)/(0|[1-9]\d{0,9})",
            rest,
            re.ASCII,
        )
        if not match or f"{name})" != self.name:
            msg = f"expected '{self.name}/opponent/seat/seed'"
            raise ValueError(msg)
        task = Deal(opponent=match[1], seat=int(match[2]), seed=int(match[3]))
        players = self.game.players
        if task.seat >= players or task.seed >= MAX_SEED or (task.opponent == NO_OPPONENT) != (players == 1):
            msg = f"expected a seat below {players}, a seed below {MAX_SEED}, opponents if there are any"
            raise ValueError(msg)
        if task.opponent != NO_OPPONENT:
            _known(self.game, "opponent", task.opponent)
        if not self._opened(task):
            msg = "expected a game that is not over before the agent has a move"
            raise ValueError(msg)
        return task

    def begin(self, task: Deal) -> str:
        self.mistakes_left, self.invalid, self.moves = self.mistakes, 0, 0
        opened = self._opened(task)
        assert opened is not None, "tasks without a move for the agent are neither drawn nor read"
        self.state, self.rng, played = opened
        return self._ask(played)

    def act(self, action: str) -> Turn:
        named = named_actions(action, self.names)
        if len(named) != 1:
            self.invalid += 1
            self.mistakes_left -= 1
            if self.mistakes_left < 0:
                return Turn(observation="That is no move. You lose.", over=True, score=self._score("no move"))
            return Turn(observation=f"{MISTAKEN}\n{self.asked}")
        self.moves += 1
        self.state.apply_action(self.names[named[0]])
        played = self._play_others(self.state, self.task, self.rng)
        if not self.state.is_terminal():
            return Turn(observation=self._ask(played))
        end, reward = self.game.result(self.state, self.task.seat)
        text = "\n".join(part for part in (played, f"The game is over: {end}.") if part)
        return Turn(observation=text, reward=reward, over=True, score=self._score(end))

    def solution(self) -> str | None:
        """The move that ends the game at once with all there is to win."""
        for name, action in self.names.items():
            if (after := self.state.child(action)).is_terminal() and self.game.share(
                after, self.task.seat
            ) == 1:
                return name
        return None

    def table(self) -> "SpielTable | None":
        """The present task's game at its start, with all its seats; None where they are played here."""
        if self.task.opponent not in OF_POLICY:
            return None
        from trieline.envs.players.spiel_table import SpielTable

        others = {*range(self.game.players)} - {self.task.seat}
        earlier = others if self.task.opponent == EARLIER else frozenset[int]()
        table = SpielTable(self.game, mistakes=self.mistakes, opening=self.opening, earlier=earlier)
        table.reset(seed=self.task.seed)
        return table

    def fork(self) -> Self:
        shared = {id(part): part for part in (*self.shared_by_forks(), self.game)}
        if self._task is not None:
            shared |= {id(self.state): self.state.clone(), id(self.names): self.names}
        return copy.deepcopy(self, shared)

    def _opened(self, task: Deal) -> tuple[Any, np.random.Generator, str] | None:
        """The game at the agent's first move, its generator, and what was played; None without a move."""
        state, rng = self.game.begun(), np.random.default_rng(task.seed)
        played = self._play_others(state, task, rng)
        return None if state.is_terminal() else (state, rng, played)

    def _play_others(self, state: Any, task: Deal, rng: np.random.Generator) -> str:
        """Until the agent is to move or the game is over. Returns what others did, where it may see that."""
        # Through this interface there is no second player to ask.
        opponent = "random" if task.opponent in OF_POLICY else task.opponent
        lines = []
        while (player := state.current_player()) != task.seat and not state.is_terminal():
            if state.is_chance_node():
                state.apply_action(drawn(state.chance_outcomes(), rng))
            else:
                action = self.game.chosen(state, opponent, rng)
                lines.append(self.game.told(state, player, action))
                state.apply_action(action)
        return "\n".join(line for line in lines if line)

    def _ask(self, played: str) -> str:
        self.names = action_names(self.state, self.task.seat)
        self.asked = self.game.question(self.state, self.task.seat, self.names)
        return self.game.question(self.state, self.task.seat, self.names, played)

    def _moves_of_expert(self) -> Iterator[str]:
        while not self._over:
            action = self.game.chosen(self.state, self.expert, self.rng)
            yield next(name for name, other in self.names.items() if other == action)

    def _score(self, end: str) -> dict[str, object]:
        return {"end": end, "moves": self.moves, "invalid": self.invalid, "opponent": self.task.opponent}


def _by_level(
    game: SpielGame, opponent: str | None, simulations: int | None, opponents: list[str] | None
) -> tuple[str, ...]:
    if simulations is not None and opponent != "mcts":
        msg = f"simulations are those of opponent='mcts', got opponent={opponent!r}"
        raise TaskError(msg)
    if game.players == 1:
        if opponent is not None or opponents is not None:
            msg = f"{game.name} is played alone, got opponent={opponent or opponents!r}"
            raise TaskError(msg)
        return (NO_OPPONENT,)
    if opponents is not None:
        if opponent is not None or not 1 <= len(opponents) <= MOST_LEVELS:
            msg = (
                f"expected 1 to {MOST_LEVELS} opponents, one a level, or one opponent, "
                f"got {opponents} and {opponent!r}"
            )
            raise TaskError(msg)
        return tuple(_known(game, "each of opponents", named) for named in opponents)
    if opponent is None:
        return LEVEL_OPPONENTS if game.sees_all else LEVEL_OPPONENTS[:1]
    if opponent == "mcts":
        simulations = 100 if simulations is None else simulations
        if simulations < SIMULATIONS[0]:
            msg = f"expected simulations in {SIMULATIONS[0]}..{SIMULATIONS[1]}, got {simulations}"
            raise TaskError(msg)
        opponent = f"mcts{simulations}"
    return (_known(game, "opponent", opponent),)


def _known(game: SpielGame, what: str, name: str) -> str:
    """A player that is played here, or one of the policy's; a search has its simulations in its name.

    Raises:
        TaskError: there is none of that name, or it would see what the game hides.
        EnvError: the package of tables is missing.
    """
    search = re.fullmatch(r"mcts(\d{1,6})", name, re.ASCII)
    if search is None and name not in ALL_SEE:
        msg = f"expected {what} to be one of {OPPONENTS}, got {name!r}"
        raise TaskError(msg)
    if search is not None and not SIMULATIONS[0] <= int(search[1]) <= SIMULATIONS[1]:
        msg = f"expected simulations in {SIMULATIONS[0]}..{SIMULATIONS[1]}, got {int(search[1])}"
        raise TaskError(msg)
    if name in OF_POLICY and importlib.util.find_spec("pettingzoo") is None:
        msg = f"{what} {name!r} needs the package pettingzoo: pip install trieline[players]"
        raise EnvError(msg)
    game.check_opponent(name)
    return name
