"""The actor's end of the trajectory link: assignments come in, trees go out, and no tree is lost.

A tree is kept until the learner has acknowledged or rejected it. On every new connection, to the same learner
or to one that was restarted, the actor says hello again and sends again all that it still keeps; the learner
removes repeats.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trieline.common.complaints import Complaints
from trieline.common.text import shortened
from trieline.wire.codec import MAX_HEADER_BYTES, InFrame, OutFrame, decode, encode, num_bytes
from trieline.wire.config import LinksConfig
from trieline.wire.dealer import Dealer
from trieline.wire.errors import MessageError, PeerTimeoutError
from trieline.wire.messages import (
    MAX_TEXT,
    Acknowledge,
    ActorGoodbye,
    ActorHeartbeat,
    ActorHello,
    Assignment,
    AssignmentFailed,
    Grant,
    LearnerToActor,
    Purpose,
    Reject,
    Stop,
    TreeDelivery,
)
from trieline.wire.tree import TrajectoryTree

# More open assignments than any capacity: a learner that grants beyond it is wrong.
MAX_GRANTED = 100_000


class Stopped(Exception):
    """Not an error: the learner has said that training is over."""


@dataclass(slots=True)
class _Parcel:
    """A tree on its way."""

    assignment_id: int
    frames: Sequence[OutFrame]
    size: int
    """Bytes."""
    sent_at: float | None = None


class TreeSender:
    """One actor's link to the learner. All methods belong to one event loop."""

    def __init__(
        self,
        links: LinksConfig,
        *,
        actor_id: str,
        capacity: int,
        episodes: int = 0,
        lasting: bool = False,
    ) -> None:
        """`actor_id`: unique to this start of the process, or, if `lasting`, the same after a restart.

        Nobody knows then how many trees went out under it, so each has the number of its assignment: one that
        is sent again after a restart is known by that.
        `capacity`, `episodes`: as in ActorHello.
        """
        self.on_settled: Callable[[int], None] = lambda assignment_id: None
        """Told of each assignment whose tree the learner has, or will never have."""
        self.running_episodes = 0
        """Told to the learner with each heartbeat; the owner keeps it."""
        self.rejected = 0
        """Trees that the learner refused, or that are too large to send."""
        self._links = links
        self._actor_id = actor_id
        self._capacity = capacity
        self._episodes = episodes
        self._lasting = lasting
        self._earlier: list[tuple[str, Assignment]] = []
        self._granted: deque[Assignment] = deque()
        self._open: dict[int, tuple[str, Purpose]] = {}
        """The run that granted it and what for, by assignment id."""
        self._max_message_bytes = links.max_message_bytes
        self._next_sequence_number = 0
        self._unacknowledged: dict[int, _Parcel] = {}
        self._to_send: deque[int] = deque()
        self._in_flight = 0
        """Bytes sent and not yet answered: no more than one message of the largest size, or one tree. So the
        learner never has more of one actor to keep than its share."""
        self._notes: deque[ActorHello | ActorHeartbeat | AssignmentFailed] = deque()
        self._stop_reason: str | None = None
        self._news = asyncio.Event()
        self._heartbeat: asyncio.Task[None] | None = None
        self._complaints = Complaints("trajectories")
        self._dealer = Dealer(
            links,
            links.trajectories,
            name=f"actor {actor_id}",
            next_frames=self._next_frames,
            on_message=self._handle,
            on_connect=self._introduce,
            on_failure=self._news.set,
        )

    async def start(self) -> None:
        """Begin to connect; a learner that is not there yet is tried again and again. Raises AddressError."""
        self._dealer.start()
        self._heartbeat = asyncio.create_task(self._beat())

    def resume(self, earlier: Iterable[tuple[str, Assignment]]) -> None:
        """Before `start`: assignments of before a restart, each with its run.

        Those of the learner's run are the next ones as soon as it says which that is; others never.
        """
        self._earlier = [*earlier]

    def run_of(self, assignment_id: int) -> str:
        """The run that granted it; "": it is not open."""
        return self._open.get(assignment_id, ("", "train"))[0]

    async def next_assignment(self, timeout_s: float | None = None) -> Assignment:
        """The next task to play. Raises Stopped, or PeerTimeoutError after `timeout_s` (None: no limit)."""
        await self._until(
            lambda: bool(self._granted or self._stop_reason is not None), timeout_s, "an assignment"
        )
        if self._stop_reason is not None:
            raise Stopped(self._stop_reason)
        return self._granted.popleft()

    async def send(self, assignment_id: int, tree: TrajectoryTree) -> int | None:
        """Take over a finished tree, which must not change any more; its sequence number.

        None: it is too large for the link. It is counted in `rejected`, and the learner is told that none
        will come.
        """
        number = assignment_id if self._lasting else self._next_sequence_number
        run_id, purpose = self._open.get(assignment_id, ("", "train"))
        delivery = TreeDelivery(
            actor_id=self._actor_id,
            sequence_number=number,
            assignment_id=assignment_id,
            tree=tree,
            run_id=run_id,
            purpose=purpose,
        )
        frames = encode(delivery)
        if (problem := self._too_large(frames, tree)) is not None:
            self.rejected += 1
            self.give_up(assignment_id, problem)
            return None
        self._next_sequence_number += 1
        self._unacknowledged[number] = _Parcel(assignment_id, frames, num_bytes(frames))
        self._to_send.append(number)
        self._dealer.wake()
        return number

    def give_up(self, assignment_id: int, reason: str) -> None:
        """Say that no tree will ever come of an assignment, not even a broken one."""
        self._complaints.add("assignments that give no tree", reason, level=logging.ERROR)
        run_id, _ = self._open.pop(assignment_id, ("", "train"))
        note = AssignmentFailed(
            actor_id=self._actor_id,
            assignment_id=assignment_id,
            reason=shortened(reason, MAX_TEXT),
            run_id=run_id,
        )
        self._notes.append(note)
        self._dealer.wake()
        self.on_settled(assignment_id)

    def unacknowledged(self) -> int:
        """Trees that the learner has not answered for yet."""
        return len(self._unacknowledged)

    async def flush(self, timeout_s: float) -> None:
        """Wait until every tree is acknowledged or rejected, or raise PeerTimeoutError."""
        await self._until(lambda: not self._unacknowledged, timeout_s, "the acknowledgement of trees")

    async def close(self, *, stuck: bool = False) -> None:
        """Say goodbye (`stuck`: as in ActorGoodbye) and close; what is unacknowledged is lost. Idempotent."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heartbeat
            self._heartbeat = None
        await self._dealer.close(encode(ActorGoodbye(actor_id=self._actor_id, stuck=stuck)))

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        if condition():
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._dealer.expect_alive()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            msg = (
                f"actor {self._actor_id} waited {timeout_s:g} s for {what} from the learner at "
                f"{self._dealer.address} ({self._dealer.state()}), which has yet to acknowledge "
                f"{len(self._unacknowledged)} trees"
            )
            raise PeerTimeoutError(msg) from error

    def _too_large(self, frames: Sequence[OutFrame], tree: TrajectoryTree) -> str | None:
        for limit, most, size in (
            ("the smaller max_message_bytes of both ends", self._max_message_bytes, num_bytes(frames)),
            ("max_tree_tokens", self._links.max_tree_tokens, tree.num_tokens),
            ("header bytes", MAX_HEADER_BYTES, len(frames[0])),
        ):
            if size > most:
                return f"expected a tree of at most {most} ({limit}), got {size}"
        return None

    def _introduce(self) -> None:
        """On a new connection: who this is, what it still works on, and everything unacknowledged again."""
        self._notes.appendleft(self._heartbeat_note())
        self._notes.appendleft(self._hello())
        self._to_send = deque(self._unacknowledged)
        self._in_flight = 0
        for parcel in self._unacknowledged.values():
            parcel.sent_at = None

    def _next_frames(self) -> Sequence[OutFrame] | None:
        if self._notes:
            return encode(self._notes.popleft())
        while self._to_send:
            parcel = self._unacknowledged.get(self._to_send[0])
            if parcel is None:
                self._to_send.popleft()
                continue
            if self._in_flight and self._in_flight + parcel.size > self._max_message_bytes:
                return None
            self._to_send.popleft()
            parcel.sent_at = time.monotonic()
            self._in_flight += parcel.size
            return parcel.frames
        return None

    def _heartbeat_note(self) -> ActorHeartbeat:
        open_ids = {*self._open, *(parcel.assignment_id for parcel in self._unacknowledged.values())}
        open_ids.update(assignment.assignment_id for _, assignment in self._earlier)
        return ActorHeartbeat(
            actor_id=self._actor_id,
            running_episodes=self.running_episodes,
            open_assignments=sorted(open_ids),
            capacity=self._capacity,
            episodes=self._episodes,
        )

    def _hello(self) -> ActorHello:
        return ActorHello(
            actor_id=self._actor_id,
            capacity=self._capacity,
            episodes=self._episodes,
            lasting=self._lasting,
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._links.heartbeat_s)
            if not self._dealer.connected:
                continue
            if not any(isinstance(note, ActorHeartbeat) for note in self._notes):
                self._notes.append(self._heartbeat_note())
            self._send_overdue_again()
            self._dealer.wake()

    def _send_overdue_again(self) -> None:
        """For an acknowledgement that was lost on a live connection (the learner's queue to us was full)."""
        overdue = time.monotonic() - 2 * self._links.peer_timeout_s
        for number, parcel in self._unacknowledged.items():
            if parcel.sent_at is not None and parcel.sent_at < overdue:
                parcel.sent_at = None
                self._in_flight -= parcel.size
                self._to_send.append(number)

    def _handle(self, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, LearnerToActor, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self._complaints.add("malformed messages from the learner", error)
            return
        match message:
            case Grant():
                self._take(message)
            case Acknowledge(sequence_numbers=numbers):
                for number in numbers:
                    self._forget(number)
            case Reject(sequence_number=number, reason=reason):
                if self._forget(number):
                    self.rejected += 1
                    self._complaints.add("trees rejected by the learner", reason)
            case Stop(reason=reason):
                self._stop_reason = reason
        self._news.set()
        if self._to_send:
            self._dealer.wake()

    def _take(self, grant: Grant) -> None:
        if grant.max_message_bytes:
            self._max_message_bytes = min(self._links.max_message_bytes, grant.max_message_bytes)
        earlier = [assignment for run_id, assignment in self._earlier if run_id == grant.run_id]
        self._earlier.clear()
        for assignment in (*earlier, *grant.assignments):
            # Perhaps open for another run, whose tree this one refuses; it then takes its own grant back.
            if assignment.assignment_id in self._open:
                continue
            if len(self._open) >= MAX_GRANTED:
                self._complaints.add("assignments beyond every capacity", assignment.assignment_id)
                return
            self._open[assignment.assignment_id] = (grant.run_id, assignment.purpose)
            self._granted.append(assignment)

    def _forget(self, sequence_number: int) -> bool:
        parcel = self._unacknowledged.pop(sequence_number, None)
        if parcel is not None:
            self._open.pop(parcel.assignment_id, None)
            if parcel.sent_at is not None:
                self._in_flight -= parcel.size
            self.on_settled(parcel.assignment_id)
        return parcel is not None
