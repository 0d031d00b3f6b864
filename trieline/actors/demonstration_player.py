"""The expert of an environment plays, for a supervised warm start."""

from dataclasses import dataclass

from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.env_session import TaskChoice, split_asked
from trieline.actors.env_threads import raised
from trieline.actors.errors import ActorError, DemonstrationError, EnvFailure
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
                return await self._play(assignment)
            except DemonstrationError as error:
                return self._broken(assignment, "environment", str(error))
            except EnvFailure as failure:
                return self._broken(assignment, failure.cause, failure.reason)

    async def _play(self, assignment: Assignment) -> TrajectoryTree:
        env = self.stage.envs.get(assignment.env_id)
        if env is None:
            raise DemonstrationError(self.stage.lacks(assignment.env_id))
        choice = TaskChoice(
            seed=assignment.seed,
            level=assignment.level,
            task_id=assignment.task_id,
            split=split_asked(env, assignment.split),
        )
        what = f"{env.id}: its demonstration"
        timeout_s = env.episode.episode_timeout_s or self.stage.config.episode_timeout_s
        try:
            return await self.stage.host.threads.call(
                what, lambda: demonstration_tree(env, self.stage.renderer, choice), timeout_s
            )
        except (ActorError, EnvFailure):
            raise
        except Exception as error:
            raise raised(what, error) from error

    def _broken(self, assignment: Assignment, cause: str, reason: str) -> TrajectoryTree:
        self.stage.host.broken.add(assignment.env_id, cause, reason)
        rollout = Rollout(index=0, cause=cause, reason=reason)
        return build_tree(
            [rollout],
            env_id=assignment.env_id,
            level=assignment.level,
            group_size=1,
            info={"broken": reason[:500]},
        )
