"""Gymnasium environments, played as assignments ask: the policy's groups, or an expert's episodes."""

from collections.abc import Mapping
from dataclasses import dataclass

from trieline.actors.demonstration_player import DemonstrationPlayer
from trieline.actors.player import Player, Stage
from trieline.actors.rollout_group import GroupPlayer
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
    groups = GroupPlayer(stage=stage)
    return PlayerByPurpose(
        players={
            "train": groups,
            "evaluate": groups,
            "demonstrate": DemonstrationPlayer(stage=stage),
        }
    )
