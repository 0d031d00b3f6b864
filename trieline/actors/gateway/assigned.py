"""`trieline gateway` with a learner: its assignments, fulfilled by sessions that agents anywhere open.

A session that is opened takes a seat: one rollout of an assignment that the learner has given. When all seats
of an assignment have ended, their tree goes to the learner. Sessions of before a restart, whose assignments
went to others meanwhile, take the next seats of their task.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trieline.actors.actor import run_worker
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.errors import OverloadedError
from trieline.actors.gateway.gateway import Gateway, limits_of
from trieline.actors.gateway.recording import recorded_tree
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_routes import OpenRequest
from trieline.actors.player import Stage, WorkerPlayer
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, eq=False)
class _Seat:
    """One rollout of an assignment."""

    assignment: Assignment
    ended: asyncio.Future[Session] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fits(self, asked: OpenRequest) -> bool:
        """Whether a session that says so much of its task is of this one."""
        assignment = self.assignment
        return (
            asked.env_id in ("", assignment.env_id)
            and asked.task_id in ("", _task_of(assignment))
            and asked.level in (0, assignment.level or 0)
        )


class AssignedSessions:
    """A worker's player whose episodes are played by whoever opens sessions."""

    def __init__(self, stage: Stage, *, record: Path | None) -> None:
        """`record`: the folder of open sessions; None: a restart loses them."""
        self._stage = stage
        self._free: list[_Seat] = []
        self._taken: dict[str, _Seat] = {}
        self._orphans: list[Session] = []
        longest = max(env.episode.max_context for env in stage.envs.values())
        self._gateway = Gateway(
            stage.gateway,
            renderer=stage.renderer,
            policy=stage.policy,
            limits=limits_of(stage.gateway, stage.config, max_context=longest),
            on_end=self._end,
            record=record,
            seat=self._open,
            seed=stage.config.seed,
        )

    async def start(self) -> None:
        """As in `WorkerPlayer`."""
        await self._gateway.start()

    async def close(self) -> None:
        """As in `WorkerPlayer`."""
        await self._gateway.close()

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`. Takes as long as agents take."""
        seats = [_Seat(assignment=assignment) for _ in range(assignment.group_size)]
        for seat in seats:
            orphan = next((s for s in self._orphans if seat.fits(_said_of(s))), None)
            if orphan is None:
                self._free.append(seat)
            else:
                self._orphans.remove(orphan)
                seat.ended.set_result(orphan)
        try:
            sessions = await asyncio.gather(*(seat.ended for seat in seats))
        finally:
            self._free = [seat for seat in self._free if seat not in seats]
        return recorded_tree(
            sessions,
            env_id=assignment.env_id,
            task_id=_task_of(assignment),
            level=assignment.level or 0,
        )

    def _open(self, asked: OpenRequest) -> Session:
        seat = next((seat for seat in self._free if seat.fits(asked)), None)
        if seat is None:
            msg = f"expected a task of the learner's for a session of {asked.env_id or 'any environment'}, "
            raise OverloadedError(msg + "got none yet", retry_after_s=self._stage.gateway.retry_after_s)
        assignment = seat.assignment
        env = self._stage.envs.get(assignment.env_id)
        session = self._gateway.sessions.open(
            env_id=assignment.env_id,
            task_id=_task_of(assignment),
            level=assignment.level or 0,
            metadata={
                **asked.metadata,
                "seed": str(assignment.seed),
                "purpose": assignment.purpose,
                "split": assignment.split or "",
            },
            limits=limits_of(
                self._stage.gateway,
                self._stage.config,
                max_context=env.episode.max_context if env is not None else 1,
                temperature=assignment.temperature,
            ),
        )
        self._free.remove(seat)
        self._taken[session.opened.session_id] = seat
        return session

    async def _end(self, session: Session) -> None:
        seat = self._taken.pop(session.opened.session_id, None)
        if seat is None:
            self._orphans.append(session)
        elif not seat.ended.done():
            seat.ended.set_result(session)


def run_gateway(
    config: GatewayConfig,
    actor: ActorConfig,
    *,
    renderer: ChatRenderer,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    record: Path | None = None,
) -> int:
    """Serve until the learner says stop or a signal comes. Returns the exit status."""

    def make_player(stage: Stage) -> WorkerPlayer:
        return AssignedSessions(stage, record=record)

    return run_worker(
        actor, renderer=renderer, envs=envs, links=links, gateway=config, make_player=make_player
    )


def _task_of(assignment: Assignment) -> str:
    """The name of a task that has none is its seed: all sessions of it are told the same one."""
    return assignment.task_id or str(assignment.seed)


def _said_of(session: Session) -> OpenRequest:
    opened = session.opened
    return OpenRequest(env_id=opened.env_id, task_id=opened.task_id, level=opened.level)
