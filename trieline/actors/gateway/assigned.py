"""`trieline gateway` with a learner: its assignments, fulfilled by sessions that agents anywhere open.

A session that is opened takes a seat: one rollout of an assignment that the learner has given. When all seats
of an assignment have ended, their tree goes to the learner.

Invariant: a session is in the record until the learner has the tree that it is in, all sessions of that tree
or none, and its record says of which assignment that tree is. After a restart the gateway goes on under its
old name, and sends what may have been sent before under its old number, so that the learner takes it once.
Sessions without a seat, and such of another run, take the next seats of their task when they end; there may
be none, so only the last ones wait.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from trieline.actors.actor import run_worker
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.errors import GatewayRecordError
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.errors import OverloadedError
from trieline.actors.gateway.exchange import Seated
from trieline.actors.gateway.gateway import Gateway, limits_of
from trieline.actors.gateway.lasting_name import lasting_name
from trieline.actors.gateway.recording import recorded_tree
from trieline.actors.gateway.replier import SamplingLimits
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
    run_id: str
    settled: asyncio.Future[None]
    """Of the assignment: the learner has its tree, or will never have it."""
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
        """`record`: the folder of sessions; None: a restart loses them."""
        assert stage.trees is not None
        self._stage = stage
        self._trees = stage.trees
        self._trees.on_settled = self._settle
        self._free: list[_Seat] = []
        self._seats: dict[str, _Seat] = {}
        """By the ids of the sessions that have them."""
        self._settled: dict[int, asyncio.Future[None]] = {}
        """By the ids of assignments."""
        self._played: dict[int, list[Session]] = {}
        """Of which there is a tree, by the ids of assignments."""
        self._earlier: dict[tuple[str, int], list[Session]] = {}
        """Of before a restart, by run and assignment."""
        self._waiting: dict[str, tuple[Session, asyncio.Future[None]]] = {}
        """Sessions that are over and have no seat."""
        longest = max(env.episode.max_context for env in stage.envs.values())
        self._gateway = Gateway(
            stage.gateway,
            renderer=stage.renderer,
            policy=stage.policy,
            limits=limits_of(stage.gateway, stage.config, max_context=longest),
            on_end=self._end,
            record=record,
            seat=self._open,
            open_online=self._open_online,
            seed=stage.config.seed,
        )

    async def start(self) -> None:
        """As in `WorkerPlayer`."""
        await self._gateway.start(self._expect_again)

    def _expect_again(self, sessions: Sequence[Session]) -> None:
        assignments: dict[tuple[str, int], Assignment] = {}
        for session in sessions:
            if (seated := session.seated) is not None:
                key = (seated.run_id, seated.assignment.assignment_id)
                assignments[key] = seated.assignment
                self._earlier.setdefault(key, []).append(session)
                self._gateway.sessions.limit(session, self._limits(seated.assignment))
        self._trees.resume((run_id, assignment) for (run_id, _), assignment in assignments.items())

    async def close(self) -> None:
        """As in `WorkerPlayer`."""
        await self._gateway.server.close()
        # Whatever ended last has begun to wait then.
        await asyncio.sleep(0)
        for future in (*self._settled.values(), *(found for _, found in self._waiting.values())):
            future.cancel()
        await self._gateway.close()

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`. Takes as long as agents take."""
        number, run_id = assignment.assignment_id, self._trees.run_of(assignment.assignment_id)
        settled = self._settled[number] = asyncio.get_running_loop().create_future()
        seats = [
            _Seat(assignment=assignment, run_id=run_id, settled=settled) for _ in range(assignment.group_size)
        ]
        earlier = self._earlier.pop((run_id, number), [])
        for seat, session in zip(seats, earlier, strict=False):
            self._take(seat, session)
        self._free += seats[len(earlier) :]
        self._earlier = {key: kept for key, kept in self._earlier.items() if key[0] == run_id}
        for session, _ in [*self._waiting.values()]:
            self._seat_late(session)
        try:
            sessions = self._played[number] = await asyncio.gather(*(seat.ended for seat in seats))
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
        return self._open_on(seat, asked.metadata)

    def _open_online(self, key: str) -> Session:
        """On a seat if one is free. Nobody who just works is turned away."""
        seat = next((seat for seat in self._free if seat.assignment.purpose == "train"), None)
        return self._gateway.sessions.open(key=key) if seat is None else self._open_on(seat, {}, key)

    def _open_on(self, seat: _Seat, metadata: Mapping[str, str], key: str = "") -> Session:
        assignment = seat.assignment
        session = self._gateway.sessions.open(
            env_id=assignment.env_id,
            task_id=_task_of(assignment),
            level=assignment.level or 0,
            metadata={
                **metadata,
                "seed": str(assignment.seed),
                "purpose": assignment.purpose,
                "split": assignment.split or "",
            },
            key=key,
            limits=self._limits(assignment),
        )
        self._seat(seat, session)
        return session

    def _seat(self, seat: _Seat, session: Session) -> None:
        """Raises GatewayRecordError: it has none, then."""
        self._gateway.sessions.seat(session, Seated(assignment=seat.assignment, run_id=seat.run_id))
        self._free.remove(seat)
        self._take(seat, session)

    def _take(self, seat: _Seat, session: Session) -> None:
        self._seats[session.opened.session_id] = seat
        if (waiting := self._waiting.pop(session.opened.session_id, None)) is not None:
            waiting[1].set_result(None)

    def _seat_late(self, session: Session) -> None:
        """Of one that is over, if there is a seat for it."""
        seated = session.seated
        if self._is_expected(session):
            return
        if seated is not None and seated.assignment.purpose != "train":
            # What was held out stays held out.
            self._drop(session, "it was for a run that is over, and not to train on")
            return
        asked = OpenRequest(
            env_id=session.opened.env_id, task_id=session.opened.task_id, level=session.opened.level
        )
        fitting = (seat for seat in self._free if seat.assignment.purpose == "train" and seat.fits(asked))
        if (seat := next(fitting, None)) is not None:
            try:
                self._seat(seat, session)
            except GatewayRecordError:
                log.exception("session %s waits for another seat", session.opened.session_id)

    def _is_expected(self, session: Session) -> bool:
        """Whether its assignment of before a restart is about to come again."""
        seated = session.seated
        return seated is not None and (seated.run_id, seated.assignment.assignment_id) in self._earlier

    def _keep_the_last(self) -> None:
        most = self._stage.gateway.unseated_sessions
        unseated = [session for session, _ in self._waiting.values() if not self._is_expected(session)]
        for session in unseated[: max(0, len(unseated) - most)]:
            self._drop(session, f"more than {most} wait for a task of the learner's (unseated_sessions)")

    def _drop(self, session: Session, why: str) -> None:
        """Of one that waits: no tree will come of it."""
        log.warning("session %s is forgotten: %s", session.opened.session_id, why)
        self._waiting.pop(session.opened.session_id)[1].set_result(None)

    async def _end(self, session: Session) -> None:
        """Returns when the learner has the tree that the session is in, or when there will be none."""
        session_id = session.opened.session_id
        if session_id not in self._seats:
            found = asyncio.get_running_loop().create_future()
            self._waiting[session_id] = (session, found)
            if session.seated is None:
                self._seat_late(session)
            self._keep_the_last()
            await found
        seat = self._seats.pop(session_id, None)
        if seat is None:
            return
        if not seat.ended.done():
            seat.ended.set_result(session)
        await seat.settled

    def _settle(self, assignment_id: int) -> None:
        settled, sessions = self._settled.pop(assignment_id, None), self._played.pop(assignment_id, [])
        if settled is not None and not settled.done():
            # All at once: of a group of which some are left after a restart, the other seats would be given
            # again, for a tree that the learner has.
            self._gateway.sessions.forget(sessions)
            settled.set_result(None)

    def _limits(self, assignment: Assignment) -> SamplingLimits:
        env = self._stage.envs.get(assignment.env_id)
        return limits_of(
            self._stage.gateway,
            self._stage.config,
            max_context=env.episode.max_context if env is not None else 1,
            temperature=assignment.temperature,
        )


def run_gateway(
    config: GatewayConfig,
    actor: ActorConfig,
    *,
    renderer: ChatRenderer,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    record: Path | None = None,
) -> int:
    """Serve until the learner says stop or a signal comes. Returns the exit status.

    `record`: the folder of sessions; None: a restart loses them.

    Raises:
        GatewayRecordError: another gateway uses it, or it can't be used.
    """

    def make_player(stage: Stage) -> WorkerPlayer:
        return AssignedSessions(stage, record=record)

    with nullcontext("") if record is None else lasting_name(record) as name:
        return run_worker(
            actor,
            renderer=renderer,
            envs=envs,
            links=links,
            gateway=config,
            make_player=make_player,
            lasting_name=name,
        )


def _task_of(assignment: Assignment) -> str:
    """The name of a task that has none is its seed: all sessions of it are told the same one."""
    return assignment.task_id or str(assignment.seed)
