"""What an environment may offer besides Gymnasium's own interface. Each is optional, and looked for by name.

They are methods of the environment itself (`env.unwrapped`): nobody has to import anything from here, and
`trieline envs check` holds what is offered against what stands here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import gymnasium


class Table(Protocol):
    """A game with its seats, as PettingZoo's `AECEnv` has it: its agents move one at a time, in text."""

    agents: list[str]
    """Those whose end has not been taken note of."""
    agent_selection: str
    """Who is to move."""

    def last(self) -> tuple[str, SupportsFloat, bool, bool, Mapping[str, Any]]:
        """Of `agent_selection`: what it may know, its reward since its own last move, over, cut, info.

        At an agent's first move `info["player"]` may be `earlier`: it is played by an earlier version of the
        policy, and not trained on.
        """

    def step(self, action: str | None) -> None:
        """Its move; None of an agent whose game is over, which leaves `agents` by that."""


@runtime_checkable
class Forkable(Protocol):
    """Can be branched in the middle of an episode."""

    def fork(self) -> "gymnasium.Env[str, str]":
        """An independent copy in the same state: the same actions give the same observations.

        One that can't be copied after all raises NotImplementedError, and is only branched at its start.
        """


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


@runtime_checkable
class Listed(Protocol):
    """Has a finite list of tasks, which can be gone through without replacement."""

    def task_ids(self, split: str) -> Sequence[str]:
        """All tasks of `split` (`train` or `test`), each once, in the same order on every machine.

        Before the first reset as well. `reset(options={"task_id": ...})` takes each of them, whatever the
        environment's own split and level, and reports it in `info`. No task is in both splits. At most
        100,000 in each, and names of at most 200 characters.
        """


@runtime_checkable
class Finishable(Protocol):
    """Can be graded as it stands when a limit of turns, tokens or time cuts an episode."""

    def finish(self) -> tuple[SupportsFloat, Mapping[str, Any]]:
        """End a running episode without another action: the reward for what was reached, and its info.

        Called at most once, in place of the next `step`: between a reset and the step that ends the episode.
        The reward is what an episode that ended here of itself would have received; `info` carries `task_id`
        and `score` as at any end.
        """


@runtime_checkable
class Tabled(Protocol):
    """Is one seat of a game of several players, and has the game with all its seats, too."""

    def table(self) -> Table | None:
        """The game of the present task, at its start: the policy plays every seat of it.

        None: the other seats of this task are played by the environment. The table is closed with this
        environment, which does nothing else meanwhile.
        """
