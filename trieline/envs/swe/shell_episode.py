"""What every episode of an agent with a shell has: a workspace of its own, a last turn, forks and an end."""

import weakref
from abc import abstractmethod
from typing import Any, Protocol, Self

from trieline.envs.text_env import TaskT, TextEnv, Turn


class ForkedWorkspace(Protocol):
    """The workspace of one agent."""

    def fork(self) -> Self:
        """An independent copy in the same state. SandboxError if there is no place for it."""

    def close(self) -> None:
        """End its sandbox. Idempotent."""


class ShellEpisode(TextEnv[TaskT]):
    """Goes before the base that says where tasks come from. `_turns` counts the replies."""

    steps: int
    _turns: int
    _workspace: Any

    @abstractmethod
    def _ended(self, observation: str = "") -> Turn:
        """The end of the episode, with the files as they are. `observation` comes first in what is said."""

    def _adopt(self, workspace: ForkedWorkspace) -> None:
        self._workspace = workspace
        # Whoever drops an environment without closing it leaves no sandbox.
        weakref.finalize(self, workspace.close).atexit = False

    def _goes_on(self, observation: str) -> Turn:
        if self._turns < self.steps:
            return Turn(observation=observation)
        return self._ended(f"{observation}\nThat was the last of {self.steps} replies.\n")

    def finish(self) -> tuple[float, dict[str, Any]]:
        """Judge the files as they are: see `protocols.Finishable`."""
        turn = self._ended()
        self._over = True
        return turn.reward, {"task_id": self.task_id(self.task), "score": dict(turn.score)}

    def close(self) -> None:
        self._workspace.close()
        super().close()

    def fork(self) -> Self:
        """A copy with a workspace of its own, in the same state. SandboxError if there is no place for it."""
        workspace = self._workspace.fork()
        copy = super().fork()
        copy._adopt(workspace)
        return copy

    def shared_by_forks(self) -> tuple[object, ...]:
        return *super().shared_by_forks(), self._workspace
