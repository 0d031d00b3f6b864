"""What an episode needs of its environment. `env_session.EnvSession` is one, a seat at a table another."""

from typing import Protocol

from trieline.actors.broken_episodes import BrokenEpisodes
from trieline.actors.env_returns import Ending, Step, Task
from trieline.actors.env_session import TaskChoice
from trieline.wire.config import EnvConfig


class Session(Protocol):
    """An environment in the middle of an episode. Every call may raise EnvFailure."""

    async def step(self, action: str) -> Step:
        """One action."""

    async def finish(self) -> Ending | None:
        """What there is for an episode that a limit cuts here; None: nothing."""

    async def fork(self) -> "Session":
        """An independent copy in the same state. Raises ForkUnsupportedError where there is none."""

    def close(self) -> None:
        """Idempotent."""


class Host(Protocol):
    """Opens the sessions of episodes."""

    @property
    def broken(self) -> BrokenEpisodes:
        """Counts what breaks."""

    async def open(self, config: EnvConfig, choice: TaskChoice) -> tuple[Session, Task]:
        """An environment at the start of the chosen task. Raises EnvFailure."""
