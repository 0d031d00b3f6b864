"""A game of OpenSpiel in words: what a seat is shown, the names of its moves, what the end is worth to it.

Nothing here depends on who plays. Where players see all, a seat is shown the board; where they don't, its own
information, which keeps what it has seen and nothing of what others hold.
"""

import functools
import math
import re
from typing import Any

import numpy as np

from trieline.envs.errors import EnvError, TaskError
from trieline.envs.text_env import expect_field

UCT_C = 2.0
MCTS_MEMORY_MB = 64
MOST_PLAYERS = 10
OBSERVATION = 64_000
"""Characters of a message, more than any has."""
MOST_SHOWN = 200
"""Names of moves in a message; where there are more, it says how many."""
MOST_TEXT = 16_000
"""Characters of a state's text, and of the names of moves."""
QUESTION = "{played}{seen}\n{you} Choose one move: {moves}. {example}"
"""What a seat is asked, by default. `played`: what others did since its last move, a line each."""
FIELDS = ("played", "seen", "you", "moves", "example")
_FIELD = re.compile(rf"\{{({'|'.join(FIELDS)})\}}")
MAX_SEED = 2**31
KEPT_GAMES = 16


class SpielGame:
    """One game with its parameters. It holds no state of any play."""

    def __init__(
        self, name: str, parameters: dict[str, Any] | None = None, *, question: str = QUESTION
    ) -> None:
        """`question`: a text with some of `FIELDS` in braces.

        Raises:
            EnvError: the package is missing.
            TaskError: the game can't be played in words, or the question does not say what a seat sees.
        """
        self._question = expect_field(question, "seen")
        self.rules = _loaded(name, frozenset((parameters or {}).items()))
        self.name = str(self.rules)
        """With its parameters."""
        self.players: int = self.rules.num_players()
        self.sees_all = _is(self.rules, "information", "PERFECT_INFORMATION")
        self.total = self._total()
        """Of all seats' shares; None where that depends on the play."""
        kind = self.rules.get_type()
        self._observes = kind.provides_observation_string and (
            self.sees_all or not kind.provides_information_state_string
        )

    def begun(self) -> Any:
        """A state at the start of the game."""
        return self.rules.new_initial_state()

    def opened(self, rng: np.random.Generator, most: int) -> Any:
        """A state after 0 to `most` random moves, and before the end of the game."""
        state = self.begun()
        moves = int(rng.integers(most + 1)) if most else 0
        while moves or state.is_chance_node():
            chance = state.is_chance_node()
            action = drawn(state.chance_outcomes(), rng) if chance else self.chosen(state, "random", rng)
            if (after := state.child(action)).is_terminal():
                break
            state, moves = after, moves - (not chance)
        return state

    def seen(self, state: Any, seat: int) -> str:
        """What a seat knows of a state. Raises EnvError if that is too long to tell."""
        seen = state.observation_string(seat) if self._observes else state.information_state_string(seat)
        self._expect_short(len(seen), "of a state")
        return str(seen.rstrip())

    def question(self, state: Any, seat: int, names: dict[str, int], played: str = "") -> str:
        """What a seat is asked when it is to move. Raises EnvError as `seen`."""
        shown = ", ".join(names)
        if len(names) > MOST_SHOWN:
            shown = f"{', '.join([*names][:MOST_SHOWN])} and {len(names) - MOST_SHOWN} more"
        self._expect_short(len(shown), "of moves")
        # An example says more to a small model than any rule about what a reply is; this one is always legal.
        fields = {
            "played": f"{played}\n" if played else "",
            "seen": self.seen(state, seat),
            "you": f"You are player {seat + 1} of {self.players}.",
            "moves": shown,
            "example": f'Reply with only the move, like "{next(iter(names))}".',
        }
        return _FIELD.sub(lambda match: fields[match[1]], self._question)

    def told(self, state: Any, player: int, action: int) -> str:
        """What the others hear of a move, before it is made; empty where they may not see it."""
        if not self.sees_all:
            return ""
        return f"Player {player + 1} plays {state.action_to_string(player, action)}."

    def result(self, state: Any, seat: int) -> tuple[str, float]:
        """How the game ended for a seat: a word for it, and the share of what there was to get, 0 to 1."""
        returns = state.returns()
        others = [value for player, value in enumerate(returns) if player != seat]
        end = "over"
        if others:
            best = max(others)
            end = "you won" if returns[seat] > best else "you lost" if returns[seat] < best else "a draw"
        return end, self.share(state, seat)

    def share(self, state: Any, seat: int) -> float:
        """What a seat got of what the game can give, 0 to 1."""
        lowest, highest = self.rules.min_utility(), self.rules.max_utility()
        share = (state.player_return(seat) - lowest) / (highest - lowest)
        return min(1.0, max(0.0, float(share)))

    def _total(self) -> float | None:
        if not (_is(self.rules, "utility", "ZERO_SUM") or _is(self.rules, "utility", "CONSTANT_SUM")):
            return None
        lowest, highest = self.rules.min_utility(), self.rules.max_utility()
        return float((self.rules.utility_sum() - self.players * lowest) / (highest - lowest))

    def check_opponent(self, opponent: str) -> None:
        """Raises TaskError if it would see what the game hides."""
        if opponent.startswith("mcts") and not self.sees_all:
            msg = f"{self.name}: expected an opponent without mcts, which would look into the agent's hand"
            raise TaskError(msg)

    def chosen(self, state: Any, opponent: str, rng: np.random.Generator) -> int:
        """The move of `random`, of `first`, or of `mctsN`, a search of N simulations."""
        if opponent.startswith("mcts"):
            # A new one each time: its luck is then all in our generator, which forks copy.
            return int(self._search(int(opponent[4:]), int(rng.integers(MAX_SEED))).step(state))
        legal = state.legal_actions()
        return int(legal[0 if opponent == "first" else int(rng.random() * len(legal))])

    def _search(self, simulations: int, seed: int) -> Any:
        pyspiel = _pyspiel()
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        return pyspiel.MCTSBot(self.rules, evaluator, UCT_C, simulations, MCTS_MEMORY_MB, False, seed, False)

    def _expect_short(self, length: int, what: str) -> None:
        if length > MOST_TEXT:
            msg = f"{self.name}: expected at most {MOST_TEXT} characters {what}, got {length}"
            raise EnvError(msg)


def action_names(state: Any, player: int) -> dict[str, int]:
    """The legal actions by name, in OpenSpiel's order. Names of several actions get their numbers."""
    names: dict[str, int] = {}
    for action in state.legal_actions():
        name = state.action_to_string(player, action).strip(" ;,.\n")
        names[f"{name} #{action}" if name in names or not name else name] = action
    return names


def drawn(outcomes: list[tuple[int, float]], rng: np.random.Generator) -> int:
    """One outcome of a chance node."""
    left = float(rng.random())
    for action, probability in outcomes:
        left -= probability
        if left < 0:
            return action
    return outcomes[-1][0]


def _pyspiel() -> Any:
    try:
        import pyspiel
    except ImportError as error:
        msg = "trieline/OpenSpiel-v0 needs the package open_spiel: pip install trieline[openspiel]"
        raise EnvError(msg) from error
    return pyspiel


@functools.lru_cache(maxsize=KEPT_GAMES)
def _loaded(name: str, parameters: frozenset[tuple[str, Any]]) -> Any:
    pyspiel = _pyspiel()
    try:
        game = pyspiel.load_game(name, dict(parameters)) if parameters else pyspiel.load_game(name)
    except (pyspiel.SpielError, TypeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        msg = f"OpenSpiel has no game {name!r} with parameters {dict(parameters)}: {first_line:.300}"
        raise TaskError(msg) from error
    if fault := _fault_of(game):
        msg = f"{game} can't be played in text by turns: {fault}"
        raise TaskError(msg)
    return game


def _fault_of(game: Any) -> str | None:
    """Why a game is refused, None if it is not."""
    kind = game.get_type()
    if not _is(game, "dynamics", "SEQUENTIAL"):
        return "its players move at the same time (turn_based_simultaneous_game makes turns of it)"
    if not (kind.provides_information_state_string or kind.provides_observation_string):
        return "its states have no text"
    if kind.action_structs_only:
        return "its moves have no names"
    if _is(game, "chance_mode", "SAMPLED_STOCHASTIC"):
        return "it draws its chance itself, which neither a seed nor a fork could repeat"
    if not 1 <= game.num_players() <= MOST_PLAYERS:
        return f"expected 1 to {MOST_PLAYERS} players, got {game.num_players()}"
    lowest, highest = game.min_utility(), game.max_utility()
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
        return f"its returns have no bounds to scale by, from {lowest} to {highest}"
    return None


def _is(game: Any, attribute: str, value: str) -> bool:
    """By name: the values are OpenSpiel's own types."""
    return str(getattr(game.get_type(), attribute)).endswith(f".{value}")
