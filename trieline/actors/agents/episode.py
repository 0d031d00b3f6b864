"""One agent's game with its environment.

Invariant: one call of the environment at a time, also when the agent is ended in the middle of one.
"""

import asyncio
from dataclasses import dataclass, field

from trieline.actors.env_returns import Step, Task
from trieline.actors.env_session import EnvSession
from trieline.actors.gateway.errors import ConflictError
from trieline.actors.gateway.session import Session


@dataclass(kw_only=True, slots=True)
class Episode:
    """From the first action to what the environment gives at the end."""

    session: Session
    env: EnvSession
    task: Task
    rewards: float = 0.0
    score: str = ""
    terminated: bool = False
    over: bool = False
    acting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def act(self, action: str) -> Step:
        """One action. Raises ConflictError: the episode is over. Else as `EnvSession.step`."""
        # Whoever asked may be gone before the environment is done; what it did counts.
        acting = asyncio.create_task(self._act(action))
        acting.add_done_callback(lambda acted: acted.cancelled() or acted.exception())
        return await asyncio.shield(acting)

    async def end(self, action: str | None = None) -> None:
        """The agent is gone; `action`: what it left to be done. If the episode is over this does nothing.

        Raises:
            EnvFailure: as `EnvSession.step` and `EnvSession.finish`.
        """
        async with self.acting:
            if action is not None and not self.over:
                await self._step(action)
            if self.over:
                return
            self.over = True
            if (ending := await self.env.finish()) is not None:
                self.rewards += ending.reward
                self.score = ending.score or self.score

    async def _act(self, action: str) -> Step:
        async with self.acting:
            if self.over:
                msg = "expected an episode that goes on, got one that is over"
                raise ConflictError(msg)
            return await self._step(action)

    async def _step(self, action: str) -> Step:
        step = await self.env.step(action)
        self.rewards += step.reward
        self.score = step.score or self.score
        self.terminated = step.terminated
        self.over = step.terminated or step.truncated
        return step
