"""Gymnasium's toy worlds told in text: the taxi, the walk along the cliff, blackjack.

Every message shows all of the state and says in words what the next move depends on. Early levels start
next to the goal, the last ones where Gymnasium's own episodes start.
"""

import copy
import functools
from typing import Any, ClassVar

from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.taxi import MAP, TaxiEnv

from trieline.envs.game.discrete import Distance, SeededEnv, Start, TabularEnv

Cell = tuple[int, int]
"""(row, column), from the upper left corner."""


class Taxi(TabularEnv):
    """Fetch the passenger and take it to its destination. Reward 1 for that, whatever the way there."""

    actions: ClassVar = {"north": 1, "south": 0, "east": 2, "west": 3, "pickup": 4, "dropoff": 5}
    distances = (
        Distance(fewest=1, most=3, spare=0),
        Distance(fewest=2, most=5, spare=2),
        Distance(fewest=5, most=9, spare=4),
        Distance(fewest=8, most=13, spare=6),
        Distance(fewest=10, most=20, spare=8),
    )

    @classmethod
    def make_world(cls, **world: Any) -> Any:
        return TaxiEnv(**world)

    def can_start(self, state: int) -> bool:
        """Not with a passenger who is where it wants to go."""
        return taxi_state(state)[1] != taxi_state(state)[2]

    def tell(self, observation: int) -> str:
        return _taxi_text(observation)


STANDS: tuple[Cell, ...] = ((0, 0), (0, 4), (4, 0), (4, 3))
"""Where passengers wait and want to go, as numbered by TaxiEnv; R, G, Y and B on its map."""
IN_TAXI = 4


def taxi_state(state: int) -> tuple[Cell, int, int]:
    """Where the taxi is, and the numbers of where the passenger is and wants to go."""
    rest, goal = divmod(state, len(STANDS))
    place, passenger = divmod(rest, len(STANDS) + 1)
    return divmod(place, 5), passenger, goal


@functools.cache
def _taxi_text(state: int) -> str:
    (row, column), passenger, goal = taxi_state(state)
    lines = [list(line) for line in MAP]
    lines[row + 1][2 * column + 1] = "T"
    text = "\n".join("".join(line) for line in lines)
    if passenger == IN_TAXI:
        errand = (
            f"The passenger is in the taxi T. The destination is {_towards((row, column), STANDS[goal])}."
        )
    else:
        way = _towards((row, column), STANDS[passenger])
        where = "here, at the taxi T" if way == "here" else f"{way} of the taxi T"
        errand = f"The passenger is {where}. Its destination is {'RGYB'[goal]}."
    walls = [
        name for name, edge in (("east", 2 * column + 2), ("west", 2 * column)) if MAP[row + 1][edge] == "|"
    ]
    return f"{text}\n{errand}" + (f" A wall is {' and '.join(walls)}." if walls else "")


def _towards(
    here: Cell, there: Cell, words: tuple[str, str, str, str] = ("north", "south", "west", "east")
) -> str:
    """The directions in which `there` lies; `here` where it is the same cell."""
    north, south, west, east = words
    rows = [north] if there[0] < here[0] else [south] if there[0] > here[0] else []
    columns = [west] if there[1] < here[1] else [east] if there[1] > here[1] else []
    return " and ".join(rows + columns) or "here"


class CliffWalking(TabularEnv):
    """Walk to the goal; who steps off the cliff goes on from the lower left corner."""

    actions: ClassVar = {"up": 0, "down": 2, "left": 3, "right": 1}
    distances = (
        Distance(fewest=1, most=3, spare=0),
        Distance(fewest=2, most=4, spare=2),
        Distance(fewest=4, most=7, spare=3),
        Distance(fewest=6, most=10, spare=4),
        Distance(fewest=9, most=14, spare=6),
    )

    @classmethod
    def make_world(cls, **world: Any) -> Any:
        return CliffWalkingEnv(**world)

    @classmethod
    def wins(cls, reward: float) -> bool:
        """The goal is the only end."""
        return True

    def can_start(self, state: int) -> bool:
        return state <= CLIFF_ROW * CLIFF_COLUMNS

    def split_key(self, task: Start) -> str:
        """So worded that each level has starts in both splits: there are 37 in all."""
        return f"Cliff {task.state}"

    def view(self) -> str:
        """The question before its reading: to repeat it is not to go where the goal is."""
        return self.tell(self.observation)

    def tell(self, observation: int) -> str:
        return _cliff_text(observation)


CLIFF_ROW, CLIFF_COLUMNS = 3, 12


@functools.cache
def _cliff_text(state: int) -> str:
    row, column = here = divmod(state, CLIFF_COLUMNS)
    lines = [["."] * CLIFF_COLUMNS for _ in range(CLIFF_ROW)]
    lines.append([".", *"C" * (CLIFF_COLUMNS - 2), "G"])
    goal = _towards(here, (CLIFF_ROW, CLIFF_COLUMNS - 1), ("up", "down", "left", "right"))
    edge = ""
    if row == CLIFF_ROW - 1 and 0 < column < CLIFF_COLUMNS - 1:
        edge = " The cliff is down."
    elif here == (CLIFF_ROW, 0):
        edge = " The cliff is right."
    lines[row][column] = "P"
    return "\n".join("".join(line) for line in lines) + f"\n{CliffWalking.ask}{edge} The goal is {goal}."


class Blackjack(SeededEnv):
    """One hand against the dealer, out of endless packs: reward 1 for a win, 0.5 for a draw.

    A task is a deal with all the cards to come, and some can't be won. A hand that is never closed is lost.
    """

    actions: ClassVar = {"hit": 1, "stick": 0, "stand": 0}
    turns = 12

    def make_world(self) -> Any:
        return BlackjackEnv(sab=True)  # the rules under which Gymnasium registers it

    def tell(self, observation: tuple[int, int, int]) -> str:
        total, shown, ace = observation
        worth = f"{total}, an ace counted as 11" if ace else f"{total}"
        return f"Your cards are worth {worth}. The dealer shows {'an ace' if shown == 1 else shown}."

    def verdict(self, reward: float) -> tuple[str, float, str]:
        name = "won" if reward > 0 else "drawn" if reward == 0 else "lost"
        return f"The game is {name}.", (min(reward, 1.0) + 1) / 2, name

    def solution(self) -> str | None:
        """To stick, where that wins: known by trying it on a copy."""
        return "stick" if copy.deepcopy(self.world).step(self.actions["stick"])[1] > 0 else None
