"""The learner's end of the trajectory link: grants assignments, takes each tree once, knows who lives.

One thread owns the socket. A tree that this run asked of its actor is validated, handed to `accept` (which
makes it durable), remembered by (actor id, sequence number), queued for `get`, and only then acknowledged.
An assignment is outstanding from `offer` until its tree is here, refused, or given up; if the actor that
holds it is lost, it is granted again before all others.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import zmq

from trieline.wire import sockets
from trieline.wire.assignment_ledger import AssignmentLedger
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, PeerTimeoutError, TreeError, WireError
from trieline.wire.messages import (
    PROTOCOL_VERSION,
    Acknowledge,
    ActorGoodbye,
    ActorHeartbeat,
    ActorHello,
    ActorToLearner,
    Assignment,
    AssignmentFailed,
    Grant,
    LearnerToActor,
    Reject,
    Stop,
    TreeDelivery,
)
from trieline.wire.sockets import Complaints, Waker
from trieline.wire.tree import TrajectoryTree

logger = logging.getLogger(__name__)

# Whole messages for each actor, so at most 16 x max_message_bytes of unread trees. Receive queue full: this
# end stops reading from the actor, whose trees then wait with it. Send queue full (the actor does not read):
# a grant goes to somebody else, an acknowledgement is dropped and given again when the tree is repeated.
SEND_QUEUE = 1_000
RECEIVE_QUEUE = 16

# Trees read before acknowledgements and grants get their turn.
RECEIVE_AT_ONCE = 16
# Acknowledgements wait this long for company: one message for many trees saves both ends most of its cost.
ACKNOWLEDGE_WITHIN_S = 0.005
MAX_ACTORS = 4_096
# Bounds far above any search, far below a bomb.
MAX_TREE_NODES = 100_000
MAX_TREE_LEAVES = 16_384
# Of all sequences together, into which the learner takes a tree apart.
MAX_SEQUENCE_TOKENS = 32_000_000
GRANT_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorStatus:
    """What the learner knows of one actor."""

    actor_id: str
    capacity: int
    running_episodes: int
    held_assignments: int
    delivered_trees: int
    silent_s: float


@dataclass(slots=True)
class _Actor:
    """One live actor, as the thread keeps it."""

    identity: bytes
    capacity: int
    heard_at: float
    running_episodes: int = 0
    delivered_trees: int = 0
    foreign: int = 0
    """Assignments that it still works on for a learner before this one: they fill its capacity, too."""
    reachable: bool = True


class TreeReceiver:
    """Public methods may be called from any thread; `start` and `close` once each, by the owner."""

    def __init__(
        self,
        links: LinksConfig,
        *,
        accept: Callable[[TreeDelivery], None],
        vocab_size: int | None,
        run_id: str,
        already_accepted: Iterable[tuple[str, int]] = (),
        max_losses: int | None = None,
    ) -> None:
        """`accept` runs in the receiver's thread, and a tree for which it raises WireError is rejected.

        `run_id`: trees of another are rejected. A restart that goes on with a run gives it the same one.
        `already_accepted`: (actor id, sequence number) of the trees that are safe since before a restart.
        `max_losses`: an assignment that so many actors held when they were lost is given up. None: never.
        Assignment ids must only grow, over restarts too: an actor may still work on an old one.
        """
        self.max_losses = max_losses
        self.duplicates = 0
        self.rejected = 0
        """Trees that broke an invariant, that nobody had asked for, or that will never come."""
        self.malformed = 0
        self.lost_actors = 0
        self._links = links
        self._accept = accept
        self._vocab_size = vocab_size
        self._run_id = run_id
        self._seen: dict[str, _Seen] = {}
        for actor_id, sequence_number in already_accepted:
            self._seen.setdefault(actor_id, _Seen()).add(sequence_number)
        self._lock = threading.Lock()
        self._ledger = AssignmentLedger(max_losses=max_losses)
        self._set_aside: set[str] = set()
        self._actors: dict[str, _Actor] = {}
        self._trees: queue.SimpleQueue[TreeDelivery | None] = queue.SimpleQueue()
        self._acknowledgements: dict[bytes, list[int]] = {}
        self._acknowledge_at = 0.0
        self._complaints = Complaints("trajectories")
        self._stop_reason: str | None = None
        self._stop_told = False
        self._failure: Exception | None = None
        self._closing = False
        self._waker = Waker()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._thread = threading.Thread(target=self._run, name="tree-receiver", daemon=True)

    def start(self) -> None:
        """Bind and begin to receive. Raises AddressError."""
        context = zmq.Context()
        try:
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=SEND_QUEUE, receive_queue=RECEIVE_QUEUE)
            self._router.router_mandatory = True
            sockets.bind(self._router, self._links.trajectories)
        except WireError:
            context.destroy(linger=0)
            raise
        self._context = context
        self._thread.start()

    def offer(self, assignments: Iterable[Assignment]) -> None:
        """Queue assignments; actors with free capacity get them one by one in turn."""
        self._expect_running()
        with self._lock:
            self._ledger.offer(assignments)
        self._waker.wake()

    def get(self, timeout_s: float) -> TreeDelivery:
        """The next accepted tree, or PeerTimeoutError."""
        try:
            delivery = self._trees.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerTimeoutError(self._nothing_came(timeout_s)) from None
        if delivery is None:
            # For the next one who asks, too.
            self._trees.put(None)
            self._expect_running()
            msg = "the tree receiver is closed"
            raise WireError(msg)
        return delivery

    def outstanding(self) -> int:
        """Assignments offered or granted whose tree has not come (nor been refused or given up)."""
        with self._lock:
            return self._ledger.outstanding()

    def take_given_up(self) -> list[Assignment]:
        """Assignments that were given up since the last call: too many actors were lost over them."""
        with self._lock:
            return self._ledger.take_given_up()

    def set_aside(self, actor_id: str) -> None:
        """Grant this actor nothing more; what it holds it may still bring."""
        with self._lock:
            self._set_aside.add(actor_id)

    def is_set_aside(self, actor_id: str) -> bool:
        """Whether this actor is granted nothing more."""
        return actor_id in self._set_aside

    def actors(self) -> dict[str, ActorStatus]:
        """The actors that live, by id."""
        now = time.monotonic()
        with self._lock:
            return {
                actor_id: ActorStatus(
                    actor_id=actor_id,
                    capacity=actor.capacity,
                    running_episodes=actor.running_episodes,
                    held_assignments=len(self._ledger.held_by(actor_id)),
                    delivered_trees=actor.delivered_trees,
                    silent_s=now - actor.heard_at,
                )
                for actor_id, actor in self._actors.items()
            }

    def stop_actors(self, reason: str) -> None:
        """Tell every actor, now and whenever one says hello, that training is over. Trees are still taken."""
        with self._lock:
            self._stop_reason = reason[:4096]
        self._waker.wake()

    def close(self) -> None:
        """End the thread and close the socket. Idempotent."""
        if self._context is None:
            self._waker.close()
            return
        context, self._context = self._context, None
        self._closing = True
        self._waker.wake()
        self._thread.join()
        context.destroy(linger=sockets.LINGER_MS)
        self._waker.close()

    def _expect_running(self) -> None:
        if self._failure is not None:
            msg = f"the tree receiver at {self._links.trajectories} failed: {self._failure}"
            raise WireError(msg) from self._failure

    def _nothing_came(self, timeout_s: float) -> str:
        known = self.actors().values()
        actors = ", ".join(
            f"{a.actor_id} runs {a.running_episodes} episodes, silent {a.silent_s:.1f} s"
            for a in list(known)[:8]
        )
        return (
            f"no tree came at {self._links.trajectories} within {timeout_s:g} s: {len(known)} actors live "
            f"({actors or 'none has said hello, or all were lost'}), {self.outstanding()} assignments "
            f"outstanding, {self.lost_actors} actors lost, {self.rejected} trees rejected"
        )

    # ---- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._router, zmq.POLLIN)
            poller.register(self._waker.fileno(), zmq.POLLIN)
            interval_s = min(self._links.heartbeat_s, self._links.peer_timeout_s / 4)
            while not self._closing:
                timeout_s = ACKNOWLEDGE_WITHIN_S if self._acknowledgements else interval_s
                if self._waker.fileno() in dict(poller.poll(math.ceil(timeout_s * 1000))):
                    self._waker.drain()
                self._turn()
            self._acknowledge()
        except Exception as error:
            logger.exception("The tree receiver at %s failed", self._links.trajectories)
            self._failure = error
        finally:
            self._trees.put(None)

    def _turn(self) -> None:
        all_read = self._receive()
        if time.monotonic() >= self._acknowledge_at:
            self._acknowledge()
        with self._lock:
            # While messages wait unread, a silent actor may only be one that was not read yet.
            if all_read:
                self._forget_silent()
            if self._stop_reason is None:
                self._grant()
            elif not self._stop_told:
                self._stop_told = True
                for actor in self._actors.values():
                    self._send(actor.identity, Stop(reason=self._stop_reason))

    def _acknowledge(self) -> None:
        for identity, numbers in self._acknowledgements.items():
            self._send(identity, Acknowledge(sequence_numbers=numbers))
        self._acknowledgements.clear()

    def _receive(self) -> bool:
        """Handle what has come; True if nothing more waits."""
        for _ in range(RECEIVE_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            self._handle(identity.bytes, frames)
        return False

    def _handle(self, identity: bytes, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, ActorToLearner, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self._refuse_malformed(identity, frames, error)
            return
        if isinstance(message, TreeDelivery):
            self._take_tree(identity, message)
            return
        with self._lock:
            match message:
                case ActorHello():
                    self._greet(identity, message)
                case ActorHeartbeat():
                    self._hear(identity, message)
                case ActorGoodbye(actor_id=actor_id):
                    self._remove(actor_id, "said goodbye")
                case AssignmentFailed(actor_id=actor_id, assignment_id=assignment_id, reason=reason):
                    self.rejected += 1
                    self._ledger.close(actor_id, assignment_id)
                    self._complaints.add("assignments given up by their actor", reason)

    def _refuse_malformed(self, identity: bytes, frames: Sequence[InFrame], error: MessageError) -> None:
        """Answer a tree that can't be decoded, so that its actor need not keep it; drop anything else."""
        self.malformed += 1
        self._complaints.add("malformed messages", error)
        try:
            named = decode(frames[:1], _NamedTree, max_bytes=self._links.max_message_bytes)
        except MessageError:
            return
        if named.type == "tree":
            with self._lock:
                if named.run_id == self._run_id:
                    self._ledger.close(named.actor_id, named.assignment_id)
            self._send(identity, Reject(sequence_number=named.sequence_number, reason=str(error)[:4096]))

    def _take_tree(self, identity: bytes, delivery: TreeDelivery) -> None:
        seen = self._seen.get(delivery.actor_id)
        if seen is not None and delivery.sequence_number in seen:
            self.duplicates += 1
        elif (problem := self._unasked(delivery)) is not None:
            self._reject(identity, delivery, "trees that nobody asked for", problem)
            return
        else:
            try:
                self._expect_valid(delivery.tree)
            except TreeError as error:
                self._reject(identity, delivery, "rejected trees", str(error))
                return
            self._accept(delivery)
            self._seen.setdefault(delivery.actor_id, _Seen()).add(delivery.sequence_number)
            self._trees.put(delivery)
        with self._lock:
            self._ledger.close(delivery.actor_id, delivery.assignment_id)
            if (actor := self._actors.get(delivery.actor_id)) is not None:
                actor.delivered_trees += 1
                actor.heard_at = time.monotonic()
        if not self._acknowledgements:
            self._acknowledge_at = time.monotonic() + ACKNOWLEDGE_WITHIN_S
        self._acknowledgements.setdefault(identity, []).append(delivery.sequence_number)

    def _unasked(self, delivery: TreeDelivery) -> str | None:
        """What is wrong with a tree that this run did not ask of its actor; None if it did."""
        if delivery.run_id != self._run_id:
            return f"expected a tree of run {self._run_id!r}, got one of run {delivery.run_id!r}"
        with self._lock:
            if self._ledger.owes(delivery.actor_id, delivery.assignment_id):
                return None
        return (
            f"expected one tree of each assignment granted to its actor, got one of {delivery.assignment_id}"
        )

    def _reject(self, identity: bytes, delivery: TreeDelivery, kind: str, reason: str) -> None:
        self.rejected += 1
        self._complaints.add(kind, f"{reason} (of {delivery.actor_id}, {delivery.tree.env_id})")
        with self._lock:
            if delivery.run_id == self._run_id:
                self._ledger.close(delivery.actor_id, delivery.assignment_id)
            else:
                # While an actor works on this id for another run, it takes no grant of the same id.
                self._ledger.take_back(delivery.actor_id, [delivery.assignment_id])
        self._send(identity, Reject(sequence_number=delivery.sequence_number, reason=reason[:4096]))

    def _expect_valid(self, tree: TrajectoryTree) -> None:
        for what, count, most in (
            ("tokens", tree.num_tokens, self._links.max_tree_tokens),
            ("nodes", tree.num_nodes, MAX_TREE_NODES),
            ("leaves", tree.num_leaves, MAX_TREE_LEAVES),
        ):
            if count > most:
                msg = f"expected at most {most} {what}, got {count}"
                raise TreeError(msg)
        tree.validate(vocab_size=self._vocab_size)
        if (total := tree.num_sequence_tokens) > MAX_SEQUENCE_TOKENS:
            msg = f"expected sequences of at most {MAX_SEQUENCE_TOKENS} tokens together, got {total}"
            raise TreeError(msg)

    def _greet(self, identity: bytes, hello: ActorHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            reason = (
                f"expected protocol {PROTOCOL_VERSION} as of the learner, got {hello.protocol} of the actor"
            )
            self._complaints.add("actors of another protocol", f"{hello.actor_id}: {reason}")
            self._send(identity, Stop(reason=reason))
            return
        self._keep(identity, hello.actor_id, hello.capacity)

    def _hear(self, identity: bytes, heartbeat: ActorHeartbeat) -> None:
        actor = self._keep(identity, heartbeat.actor_id, heartbeat.capacity)
        if actor is None:
            return
        listed = frozenset(heartbeat.open_assignments)
        actor.running_episodes = heartbeat.running_episodes
        actor.foreign = len(listed.difference(self._ledger.held_by(heartbeat.actor_id)))
        long_ago = time.monotonic() - self._links.peer_timeout_s
        lost = self._ledger.unknown_to(heartbeat.actor_id, listed, long_ago)
        if lost:
            self._ledger.take_back(heartbeat.actor_id, lost)
            logger.warning(
                "%d assignments never reached actor %s, and go to others", len(lost), heartbeat.actor_id
            )

    def _keep(self, identity: bytes, actor_id: str, capacity: int) -> _Actor | None:
        """The record of an actor that just spoke; a new one if it is unknown and says its capacity."""
        actor = self._actors.get(actor_id)
        if actor is None:
            if capacity == 0:
                return None
            if len(self._actors) >= MAX_ACTORS:
                self._complaints.add(
                    "actors beyond the most that are served", f"{actor_id}, {MAX_ACTORS} are"
                )
                return None
            actor = self._actors[actor_id] = _Actor(identity=identity, capacity=capacity, heard_at=0)
            logger.info("actor %s joined, capacity %d", actor_id, capacity)
            if self._stop_reason is not None:
                self._send(identity, Stop(reason=self._stop_reason))
        actor.identity = identity
        actor.capacity = capacity or actor.capacity
        actor.heard_at = time.monotonic()
        actor.reachable = True
        return actor

    def _forget_silent(self) -> None:
        long_ago = time.monotonic() - self._links.peer_timeout_s
        for actor_id in [i for i, actor in self._actors.items() if actor.heard_at < long_ago]:
            self.lost_actors += 1
            self._remove(actor_id, f"was silent for {self._links.peer_timeout_s:g} s and counts as lost")

    def _remove(self, actor_id: str, why: str) -> None:
        if self._actors.pop(actor_id, None) is not None:
            count = self._ledger.take_back(actor_id, lost=True)
            logger.info("actor %s %s; its %d open assignments go to others", actor_id, why, count)

    def _grant(self) -> None:
        free = {
            actor_id: min(actor.capacity - len(self._ledger.held_by(actor_id)) - actor.foreign, GRANT_AT_ONCE)
            for actor_id, actor in self._actors.items()
            if actor.reachable and actor_id not in self._set_aside
        }
        for actor_id, assignments in self._ledger.grant(free, time.monotonic()).items():
            actor = self._actors[actor_id]
            grant = Grant(
                assignments=assignments,
                run_id=self._run_id,
                max_message_bytes=self._links.max_message_bytes,
            )
            if self._send(actor.identity, grant):
                # The next round begins with somebody else.
                self._actors[actor_id] = self._actors.pop(actor_id)
            else:
                # Gone or stuck: no more for it until it is heard again; what it holds stays until it is lost.
                actor.reachable = False
                self._ledger.take_back(actor_id, [a.assignment_id for a in assignments])

    def _send(self, identity: bytes, message: LearnerToActor) -> bool:
        """False if the actor is gone or does not read; never waits."""
        try:
            self._router.send_multipart([identity, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True


class _NamedTree(msgspec.Struct):
    """As much of a TreeDelivery as its rejection needs."""

    type: str
    actor_id: str
    sequence_number: int
    assignment_id: int = 0
    run_id: str = ""


class _Seen:
    """Sequence numbers, kept as all below a floor and a few above it."""

    def __init__(self) -> None:
        self._floor = 0
        self._above: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._floor or number in self._above

    def add(self, number: int) -> None:
        self._above.add(number)
        while self._floor in self._above:
            self._above.remove(self._floor)
            self._floor += 1
