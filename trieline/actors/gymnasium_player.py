"""Gymnasium environments, played as assignments ask: by the policy, at all seats or one, or by an expert."""

from collections.abc import Mapping
from dataclasses import dataclass

from trieline.actors.demonstration_player import DemonstrationPlayer
from trieline.actors.player import Player, Stage
from trieline.actors.rollout_group import GroupPlayer
from trieline.actors.table_player import TablePlayer
from trieline.wire.messages import Assignment, Purpose
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerByPurpose:
    """Hands each assignment to the player of its purpose."""

    players: Mapping[Purpose, Player]

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`."""
        return await self.players[assignment.purpose].play(assignment)


def play_environments(stage: Stage) -> Player:
    """What an actor plays unless it is told otherwise."""
    policy = TablePlayer(stage=stage, others=GroupPlayer(stage=stage))
    return PlayerByPurpose(
        players={
            "train": policy,
            "evaluate": policy,
            "demonstrate": DemonstrationPlayer(stage=stage),
        }
    )
