"""The towers of Hanoi, one move a turn: all disks to peg C, no disk on a smaller one.

Starts are all positions of one to five disks. A level is how many moves a start is away from the goal.
"""

import functools
import itertools
from typing import Any, ClassVar

import gymnasium

from trieline.envs.game.discrete import Distance, Outcome, TabularEnv

PEGS = "ABC"
MOST_DISKS = 5
MOVES = tuple(itertools.permutations(range(len(PEGS)), 2))
"""(from, to) of each action."""
SPELLINGS = ("{} to {}", "{}->{}", "{} -> {}", "{} to peg {}")

Position = tuple[int, ...]
"""The peg of each disk, the smallest first."""
POSITIONS: tuple[Position, ...] = tuple(
    position
    for disks in range(1, MOST_DISKS + 1)
    for position in itertools.product(range(len(PEGS)), repeat=disks)
)
"""By the world's state."""


class HanoiWorld(gymnasium.Env[Any, Any]):
    """The towers as a discrete world with a table of transitions. Reward 1 at the goal."""

    action_space = gymnasium.spaces.Discrete(len(MOVES))
    observation_space = gymnasium.spaces.Discrete(len(POSITIONS))

    def __init__(self) -> None:
        states = {position: state for state, position in enumerate(POSITIONS)}
        self.s = 0
        self.P = {
            state: {action: [_outcome(position, *move, states)] for action, move in enumerate(MOVES)}
            for position, state in states.items()
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return self.s, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        _, self.s, reward, over = self.P[self.s][action][0]
        return self.s, reward, over, False, {}


def _outcome(position: Position, start: int, end: int, states: dict[Position, int]) -> Outcome:
    """What a move leads to; one against the rules leaves everything as it is."""
    smallest = {peg: disk for disk, peg in reversed([*enumerate(position)])}
    disk = smallest.get(start)
    if disk is not None and disk < smallest.get(end, len(position)):
        position = (*position[:disk], end, *position[disk + 1 :])
    solved = set(position) == {len(PEGS) - 1}
    return 1.0, states[position], float(solved), solved


class Hanoi(TabularEnv):
    """Reward 1 when all disks are on C. A move against the rules uses up a turn."""

    actions: ClassVar = {
        spelling.format(PEGS[start], PEGS[end]).lower(): action
        for spelling in SPELLINGS
        for action, (start, end) in enumerate(MOVES)
    }
    ask = "Reply with one move: A to B, A to C, B to A, B to C, C to A or C to B."
    unknown = "That names no move. "
    distances = (
        Distance(fewest=1, most=1, spare=1),
        Distance(fewest=2, most=3, spare=2),
        Distance(fewest=4, most=7, spare=3),
        Distance(fewest=8, most=15, spare=5),
        Distance(fewest=16, most=31, spare=9),
    )

    @classmethod
    def make_world(cls, **world: Any) -> Any:
        return HanoiWorld(**world)

    def can_start(self, state: int) -> bool:
        return set(POSITIONS[state]) != {len(PEGS) - 1}

    def tell(self, observation: int) -> str:
        return _text(observation)


@functools.cache
def _text(state: int) -> str:
    position = POSITIONS[state]
    pegs = []
    for peg, name in enumerate(PEGS):
        disks = [str(disk + 1) for disk in reversed(range(len(position))) if position[disk] == peg]
        pegs.append(f"{name}: {' '.join(disks) or 'empty'}")
    rules = "Bring all disks to C. The last of a peg is its top; none may lie on a smaller one."
    return f"{'. '.join(pegs)}. {rules}"
