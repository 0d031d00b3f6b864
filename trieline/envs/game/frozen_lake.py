"""Gymnasium's FrozenLake told in text: the map, where the goal lies, which moves are deadly.

The first level starts next to the goal, later ones start further away on larger maps with more holes.
"""

import functools
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from trieline.envs.game.discrete import DiscreteEnv
from trieline.envs.text_env import Split

MOVES = {"left": 0, "down": 1, "right": 2, "up": 3}
"""Words and the actions of FrozenLakeEnv."""
STEPS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""(rows, columns) of each move."""
MAX_SIZE = 16
KEPT_VIEWS = 4096
"""Messages kept in a process: the rollouts of a group walk on the same lake."""
MAP = re.compile(rf"\d{{1,3}}:[SFHG]+(?:/[SFHG]+){{0,{MAX_SIZE - 1}}}", re.ASCII)

Cell = tuple[int, int]
"""(row, column), from the upper left corner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A map's size, its number of holes, and how many moves the start is away from the goal."""

    size: int
    holes: int
    distance: tuple[int, int]
    spare: int
    """Moves allowed beyond the shortest way."""


LEVELS = (
    Level(size=3, holes=1, distance=(1, 1), spare=0),
    Level(size=3, holes=1, distance=(2, 2), spare=1),
    Level(size=4, holes=2, distance=(2, 4), spare=2),
    Level(size=4, holes=4, distance=(4, 6), spare=2),
    Level(size=6, holes=8, distance=(6, 10), spare=4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lake:
    """`rows` of S (start), F (frozen), H (hole), G (goal), and the number of moves allowed."""

    rows: tuple[str, ...]
    moves: int

    def find(self, letter: str) -> Cell:
        row = next(i for i, cells in enumerate(self.rows) if letter in cells)
        return row, self.rows[row].index(letter)


class FrozenLake(DiscreteEnv[Lake]):
    """Reward 1 at the goal. A hole, or the last move, ends the episode.

    The first direction that a reply names is the move; a reply without one uses up a move.
    """

    actions = MOVES
    ask = "Choose one word: up, down, left or right."
    unknown = ""
    levels = len(LEVELS)

    def __init__(
        self,
        *,
        split: Split = "train",
        level: int = 0,
        is_slippery: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        self.is_slippery = is_slippery

    def draw_task(self, level: int) -> Lake:
        wanted = LEVELS[level]
        while True:
            rows = _draw_rows(wanted, self.np_random)
            way = shortest_way(rows, Lake(rows=rows, moves=0).find("S"))
            if way is not None and wanted.distance[0] <= len(way) <= wanted.distance[1]:
                return Lake(rows=rows, moves=len(way) + wanted.spare)

    def task_id(self, task: Lake) -> str:
        return f"{task.moves}:{'/'.join(task.rows)}"

    def parse_task(self, task_id: str) -> Lake:
        if not MAP.fullmatch(task_id):
            msg = f"expected 'moves:row/row/...' with rows of S, F, H and G, at most {MAX_SIZE} of them"
            raise ValueError(msg)
        moves, rows = task_id.split(":")
        lake = Lake(rows=tuple(rows.split("/")), moves=int(moves))
        if len({len(row) for row in lake.rows}) > 1 or len(lake.rows[0]) > MAX_SIZE:
            msg = f"expected rows of one length of at most {MAX_SIZE}"
            raise ValueError(msg)
        if rows.count("S") != 1 or rows.count("G") != 1 or shortest_way(lake.rows, lake.find("S")) is None:
            msg = "expected one start, one goal, and a way between them"
            raise ValueError(msg)
        if lake.moves < 1:
            msg = "expected at least one move"
            raise ValueError(msg)
        return lake

    def split_key(self, task: Lake) -> str:
        return "/".join(task.rows)

    def turns_of(self, task: Lake) -> int:
        return task.moves

    def open_world(self, task: Lake) -> tuple[Any, Any]:
        world = FrozenLakeEnv(desc=list(task.rows), is_slippery=self.is_slippery)
        return world, world.reset(seed=int(self.np_random.integers(2**31)) if self.is_slippery else 0)[0]

    @property
    def position(self) -> Cell:
        row, column = divmod(int(self.world.s), self.world.ncol)
        return row, column

    def verdict(self, reward: float) -> tuple[str, float, str]:
        if reward > 0:
            return "You reached the goal.", 1.0, "goal"
        return "You fell into a hole.", 0.0, "hole"

    def solution(self) -> str | None:
        way = list(self.demonstrate_way())
        return way[0] if len(way) == 1 and not self.is_slippery else None

    def demonstrate_way(self) -> list[str]:
        return shortest_way(self.task.rows, self.position) or []

    def demonstrate(self) -> Iterator[str]:
        while self.moves_left and (way := self.demonstrate_way()):
            yield way[0]

    def view(self) -> str:
        return self.tell(self.observation)

    def tell(self, observation: int) -> str:
        return _view(self.task.rows, divmod(int(observation), self.world.ncol))


@functools.lru_cache(maxsize=KEPT_VIEWS)
def _view(rows: tuple[str, ...], here: Cell) -> str:
    """The map, with the player as P, and its reading: all that a move depends on."""
    cells = [list(row.replace("S", ".").replace("F", ".")) for row in rows]
    cells[here[0]][here[1]] = "P"
    lines = "\n".join("".join(row) for row in cells)
    return f"{lines}\n{FrozenLake.ask}{_reading(rows, here)}"


def _reading(rows: tuple[str, ...], here: Cell) -> str:
    """What the map says of the next move, in words."""
    goal_row, goal_column = Lake(rows=rows, moves=0).find("G")
    towards = [(goal_row < here[0], "up"), (goal_row > here[0], "down"), (goal_column < here[1], "left")]
    towards += [(goal_column > here[1], "right")]
    goal = " and ".join(move for is_there, move in towards if is_there)
    holes = [move for move in STEPS if _cell(rows, _moved(here, move)) == "H"]
    return (f" A hole is {' and '.join(holes)}." if holes else "") + f" The goal is {goal}."


def shortest_way(rows: tuple[str, ...], start: Cell) -> list[str] | None:
    """Moves from `start` to the goal around the holes, None without a way. Breadth first."""
    ways: dict[Cell, list[str]] = {start: []}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if _cell(rows, cell) == "G":
            return ways[cell]
        for move in STEPS:
            following = _moved(cell, move)
            if following not in ways and _cell(rows, following) not in ("", "H"):
                ways[following] = [*ways[cell], move]
                queue.append(following)
    return None


def _moved(cell: Cell, move: str) -> Cell:
    return cell[0] + STEPS[move][0], cell[1] + STEPS[move][1]


def _cell(rows: tuple[str, ...], cell: Cell) -> str:
    """The letter there, empty outside of the map."""
    inside = 0 <= cell[0] < len(rows) and 0 <= cell[1] < len(rows[0])
    return rows[cell[0]][cell[1]] if inside else ""


def _draw_rows(level: Level, rng: np.random.Generator) -> tuple[str, ...]:
    cells = np.full(level.size**2, "F")
    places = rng.permutation(level.size**2)
    cells[places[0]], cells[places[1]] = "S", "G"
    cells[places[2 : 2 + level.holes]] = "H"
    return tuple("".join(row) for row in cells.reshape(level.size, level.size))
