"""Gymnasium environments, played as assignments ask: by the policy, an agent or an expert."""

from collections.abc import Mapping
from dataclasses import dataclass

from trieline.actors.agents.agent_player import AgentPlayer
from trieline.actors.demonstration_player import DemonstrationPlayer
from trieline.actors.player import Player, Stage, WorkerPlayer
from trieline.actors.rollout_group import GroupPlayer
from trieline.actors.table_player import TablePlayer
from trieline.wire.messages import Assignment
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerByAssignment:
    """Hands each assignment to the player of its purpose and environment."""

    groups: Player
    """Of the policy's own episodes."""
    demonstrations: Player
    others: Mapping[str, Player]
    """Those of single environments, in place of `groups`."""
    agents: WorkerPlayer | None = None
    """The one of `others` that begins and ends with the worker."""

    async def start(self) -> None:
        """As in `WorkerPlayer`."""
        if self.agents is not None:
            await self.agents.start()

    async def close(self) -> None:
        """As in `WorkerPlayer`."""
        if self.agents is not None:
            await self.agents.close()

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`."""
        if assignment.purpose == "demonstrate":
            return await self.demonstrations.play(assignment)
        return await self.others.get(assignment.env_id, self.groups).play(assignment)


def play_environments(stage: Stage) -> WorkerPlayer:
    """What an actor plays unless it is told otherwise."""
    with_agent = [env_id for env_id, env in stage.envs.items() if env.agent is not None]
    agents = AgentPlayer(stage) if with_agent else None
    return PlayerByAssignment(
        groups=TablePlayer(stage=stage, others=GroupPlayer(stage=stage)),
        demonstrations=DemonstrationPlayer(stage=stage),
        others={} if agents is None else dict.fromkeys(with_agent, agents),
        agents=agents,
    )
