"""The expert of an environment plays, for a supervised warm start."""

import asyncio
from dataclasses import dataclass

from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.errors import DemonstrationError
from trieline.actors.player import Stage
from trieline.actors.rollout import Rollout
from trieline.actors.tree_builder import build_tree
from trieline.wire.messages import Assignment
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationPlayer:
    """One expert episode an assignment; a broken leaf with the reason where there is none."""

    stage: Stage

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`."""
        async with self.stage.slots.episode():
            try:
                # Its own deadline bounds it, so this thread always comes back.
                return await asyncio.to_thread(self._play, assignment)
            except DemonstrationError as error:
                return self._broken(assignment, str(error))

    def _play(self, assignment: Assignment) -> TrajectoryTree:
        env = self.stage.envs.get(assignment.env_id)
        if env is None:
            raise DemonstrationError(self.stage.lacks(assignment.env_id))
        timeout_s = env.episode.episode_timeout_s or self.stage.config.episode_timeout_s
        return demonstration_tree(
            env, self.stage.renderer, assignment.seed, assignment.level, timeout_s=timeout_s
        )

    def _broken(self, assignment: Assignment, reason: str) -> TrajectoryTree:
        self.stage.host.broken.add(assignment.env_id, "environment", reason)
        rollout = Rollout(index=0, cause="environment", reason=reason)
        return build_tree(
            [rollout],
            env_id=assignment.env_id,
            level=assignment.level,
            group_size=1,
            info={"broken": reason[:500]},
        )
