"""Who plays an assignment: one interface, whatever the episodes are made of.

Groups of Gymnasium episodes are one player, an expert's demonstrations another. A worker is given a function
that makes its player of what the worker has, so that others (games of several players, episodes that somebody
else plays, a rollout function of a user's own) need nothing else of the worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.policy import Policy
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeSender
from trieline.wire.tree import TrajectoryTree


class Player(Protocol):
    """Plays assignments, many at once."""

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """Play everything that the assignment asks for. Always gives a tree, its leaves broken at worst.

        Raises:
            StuckEnvironmentsError, or a BaseExceptionGroup of it: this process can't go on.
        """


class WorkerPlayer(Player, Protocol):
    """The player of a worker, which begins and ends with it."""

    async def start(self) -> None:
        """Before there is a link to the learner. Raises ActorError: this worker can't play."""

    async def close(self) -> None:
        """After the last one. Idempotent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one worker has for its players, who share it."""

    config: ActorConfig
    envs: Mapping[str, EnvConfig]
    renderer: ChatRenderer
    policy: Policy
    earlier: Policy | None = None
    """An earlier version, where a server of one is named."""
    host: EnvHost
    slots: EpisodeSlots
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    trees: TreeSender | None = None
    """What takes the trees to the learner, where there is one."""

    def lacks(self, env_id: str) -> str:
        """Why an assignment in an environment that is none of `envs` can't be played."""
        return f"expected an assignment for one of {sorted(self.envs)}, got {env_id!r}"


class MakePlayer(Protocol):
    """Makes a worker's player, in the worker."""

    def __call__(self, stage: Stage) -> WorkerPlayer: ...
