"""The learner's end of the trajectory link: grants assignments, takes each tree once, knows who lives.

One thread owns the socket. A tree that this run asked of its actor is held against what was asked for, handed
to `accept` (which makes it durable), remembered by (actor id, sequence number), queued for `get`, and only
then acknowledged. An assignment is outstanding from `offer` until its tree is here, refused, or given up; if
the actor that holds it is lost, it is granted again before all others.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import zmq

from trieline.common.complaints import Complaints
from trieline.common.text import shortened
from trieline.wire import sockets
from trieline.wire.accepted_trees import AcceptedTrees
from trieline.wire.acknowledgements import WITHIN_S, Acknowledgements
from trieline.wire.actor_register import ActorRegister, ActorStatus
from trieline.wire.assignment_ledger import AssignmentLedger
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, PeerTimeoutError, TreeError, WireError
from trieline.wire.gate import Gate
from trieline.wire.inbox import Inbox, cut_off
from trieline.wire.messages import (
    MAX_TEXT,
    PROTOCOL_VERSION,
    ActorGoodbye,
    ActorHeartbeat,
    ActorHello,
    ActorToLearner,
    Assignment,
    AssignmentFailed,
    Grant,
    LearnerToActor,
    Purpose,
    Reject,
    Stop,
    TreeDelivery,
)
from trieline.wire.seen_numbers import SeenNumbers
from trieline.wire.socket_thread import Context, SocketThread
from trieline.wire.tree_admission import Expectation, expect_admissible

# Whole messages for each actor. Full (the actor does not read): a grant goes to somebody else, an
# acknowledgement is dropped and given again when the tree is repeated.
SEND_QUEUE = 1_000
# Messages moved from the socket to the inbox, and handled, before acknowledgements and grants get their turn.
READ_AT_ONCE = 1_000
HANDLE_AT_ONCE = 64
# Unread trees, in the largest messages allowed: of one actor, and of all. An actor has no more than one of
# them under way, or one tree, before it is answered, so only strangers come to the bound of one.
SHARE_MESSAGES = 4
INBOX_MESSAGES = 16

Accept = Callable[[TreeDelivery, Sequence[InFrame]], None]


class TreeReceiver:
    """Public methods may be called from any thread; `start` and `close` once each, by the owner."""

    def __init__(
        self,
        links: LinksConfig,
        *,
        accept: Accept,
        run_id: str,
        expectation: Expectation | None = None,
        already_accepted: Iterable[tuple[str, int]] = (),
        evaluation_share: float = 1.0,
        max_losses: int | None = None,
    ) -> None:
        """`accept` gets each tree with the frames that it came in, in the receiver's thread.

        A tree for which it raises TreeError is rejected; any other error ends the receiver, so that nothing
        is acknowledged that is not safe.
        `run_id`: trees of another are rejected. A restart that goes on with a run gives it the same one.
        `expectation`: what all trees are held against, beside their assignments.
        `already_accepted`: (actor id, sequence number) of the trees that are safe since before a restart.
        Assignment ids must only grow, over restarts too: an actor may still work on an old one.
        `evaluation_share`: of the actors' episodes, for evaluations while something else waits.
        `max_losses`: an assignment that so many actors held when they were lost is given up. None: never.
        """
        self.duplicates = 0
        self.rejected = 0
        """Trees that broke an invariant, that nobody had asked for, or that will never come."""
        self.malformed = 0
        self.flooded = 0
        """Messages dropped because their peer had sent more than its share."""
        self.newest_version: int | None = None
        """The highest policy version that can have sampled, told by the owner; None: trees may be of any."""
        self._links = links
        self._accept = accept
        self._run_id = run_id
        self._expectation = expectation or Expectation(max_tree_tokens=links.max_tree_tokens)
        self._seen: dict[str, SeenNumbers] = {}
        for actor_id, sequence_number in already_accepted:
            self._seen.setdefault(actor_id, SeenNumbers()).add(sequence_number)
        self._complaints = Complaints("trajectories")
        self._lock = threading.Lock()
        self.max_losses = max_losses
        self._ledger = AssignmentLedger(max_losses=max_losses)
        self._register = ActorRegister(self._ledger, self._complaints, peer_timeout_s=links.peer_timeout_s)
        self._accepted = AcceptedTrees()
        self._evaluation_share = evaluation_share
        largest = links.max_message_bytes
        self._inbox = Inbox(most_bytes=INBOX_MESSAGES * largest, share_bytes=SHARE_MESSAGES * largest)
        self._acknowledgements = Acknowledgements(self._send)
        self._stop_reason: str | None = None
        self._thread = SocketThread(
            f"tree receiver at {links.trajectories}",
            open_sockets=self._open,
            turn=self._turn,
            at_end=self._end,
            gate=Gate(links.keys, self._complaints),
        )

    @property
    def lost_actors(self) -> int:
        """Actors that were silent for too long."""
        return self._register.lost

    def start(self) -> None:
        """Bind and begin to receive. Raises AddressError."""
        self._thread.start()

    def offer(self, assignments: Iterable[Assignment]) -> None:
        """Queue assignments; actors with free capacity get them one by one in turn."""
        self._thread.expect_running()
        with self._lock:
            self._ledger.offer(assignments)
        self._thread.wake()

    def withdraw(self, assignment_ids: Iterable[int]) -> None:
        """Grant these to nobody any more. What actors hold of them they may still bring."""
        with self._lock:
            self._ledger.withdraw(frozenset(assignment_ids))

    def get(self, timeout_s: float, purpose: Purpose = "train") -> TreeDelivery:
        """The next accepted tree of that purpose, or PeerTimeoutError."""
        try:
            delivery = self._accepted.get(timeout_s, purpose)
        except TimeoutError:
            raise PeerTimeoutError(self._nothing_came(timeout_s)) from None
        if delivery is None:
            self._thread.expect_running()
            msg = "the tree receiver is closed"
            raise WireError(msg)
        return delivery

    def outstanding(self, purpose: Purpose = "train") -> int:
        """Assignments offered or granted whose tree has not come (nor been refused or given up)."""
        with self._lock:
            return self._ledger.outstanding(purpose) + self._accepted.added(purpose)

    def take_given_up(self) -> list[Assignment]:
        """Tasks to train on that were given up since the last call: too many actors were lost over them."""
        with self._lock:
            return self._ledger.take_given_up()

    def set_aside(self, actor_id: str) -> None:
        """Grant this actor nothing more; what it holds it may still bring."""
        with self._lock:
            self._register.set_aside.add(actor_id)

    def is_set_aside(self, actor_id: str) -> bool:
        """Whether this actor is granted nothing more."""
        return actor_id in self._register.set_aside

    def actors(self) -> dict[str, ActorStatus]:
        """The actors that live, by id."""
        with self._lock:
            return self._register.status()

    def stop_actors(self, reason: str) -> None:
        """Tell every actor, now and whenever one says hello, that training is over. Trees are still taken."""
        with self._lock:
            self._stop_reason = reason[:MAX_TEXT]
        self._thread.wake()

    def close(self) -> None:
        """End the thread and close the socket. Idempotent."""
        self._thread.close()

    def _nothing_came(self, timeout_s: float) -> str:
        known = self.actors().values()
        actors = ", ".join(
            f"{shortened(a.actor_id)} runs {a.running_episodes} episodes, silent {a.silent_s:.1f} s"
            for a in list(known)[:8]
        )
        return (
            f"no tree came at {self._links.trajectories} within {timeout_s:g} s: {len(known)} actors live "
            f"({actors or 'none has said hello, or all were lost'}), {self.outstanding()} assignments "
            f"outstanding, {self.lost_actors} actors lost, {self.rejected} trees rejected"
        )

    # ---- in the thread -------------------------------------------------------------------------------------

    def _open(self, context: Context) -> Sequence[zmq.Socket[bytes]]:
        self._router = context.socket(zmq.ROUTER)
        sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
        self._router.router_mandatory = True
        sockets.bind(self._router, self._links.trajectories, self._links.keys)
        return [self._router]

    def _turn(self) -> float:
        all_read = self._read()
        for _ in range(HANDLE_AT_ONCE):
            if not self._inbox:
                break
            self._handle(*self._inbox.take())
        self._accepted.hand_over()
        self._acknowledgements.send_due()
        all_handled = all_read and not self._inbox
        with self._lock:
            # While messages wait, a silent actor may only be one that was not heard yet.
            if all_handled:
                self._register.forget_silent()
            if self._stop_reason is None:
                self._grant()
            else:
                self._tell_to_stop(self._stop_reason)
        if not all_handled:
            return 0.0
        if self._acknowledgements:
            return WITHIN_S
        return min(self._links.heartbeat_s, self._links.peer_timeout_s / 4)

    def _end(self) -> None:
        if self._thread.failure is None:
            self._acknowledgements.send_all()
        self._accepted.end()

    def _read(self) -> bool:
        """Move what has come to the inbox; True if nothing more waits."""
        for _ in range(READ_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            if not self._inbox.add(identity.bytes, frames):
                self.flooded += 1
                self._complaints.add("messages beyond the share of a peer", "its connection is closed")
                cut_off(identity)
        return False

    def _handle(self, identity: bytes, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, ActorToLearner, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self._refuse_malformed(identity, frames, error)
            return
        if isinstance(message, TreeDelivery):
            self._take_tree(identity, message, frames)
            return
        with self._lock:
            match message:
                case ActorHello():
                    self._greet(identity, message)
                case ActorHeartbeat():
                    self._register.hear_heartbeat(identity, message)
                case ActorGoodbye(actor_id=actor_id, stuck=stuck):
                    self._register.remove(actor_id, "actors left", lost=stuck)
                case AssignmentFailed(actor_id=actor_id, assignment_id=assignment_id, reason=reason):
                    self.rejected += 1
                    self._no_tree_of(actor_id, assignment_id, message.run_id or self._run_id)
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
                    self._ledger.drop(named.actor_id, named.assignment_id)
            reason = shortened(error, MAX_TEXT)
            self._send(identity, Reject(sequence_number=named.sequence_number, reason=reason))

    def _take_tree(self, identity: bytes, delivery: TreeDelivery, frames: Sequence[InFrame]) -> None:
        seen = self._seen.get(delivery.actor_id)
        if seen is not None and delivery.sequence_number in seen:
            self.duplicates += 1
        elif (problem := self._unasked(delivery)) is not None:
            self._reject(identity, delivery, "trees that nobody asked for", problem)
            return
        else:
            try:
                self._expect_admissible(delivery)
                self._accept(delivery, frames)
            except TreeError as error:
                self._reject(identity, delivery, "rejected trees", str(error))
                return
            self._seen.setdefault(delivery.actor_id, SeenNumbers()).add(delivery.sequence_number)
            self._accepted.add(delivery)
        with self._lock:
            self._ledger.close(delivery.actor_id, delivery.assignment_id)
            self._register.note_delivery(delivery.actor_id)
        self._acknowledgements.add(identity, delivery.sequence_number)

    def _unasked(self, delivery: TreeDelivery) -> str | None:
        """What is wrong with a tree that this run did not ask of its actor; None if it did."""
        if delivery.run_id != self._run_id:
            return f"expected a tree of run {self._run_id!r}, got one of run {delivery.run_id!r}"
        with self._lock:
            owed = self._ledger.owed(delivery.actor_id, delivery.assignment_id)
            if owed is not None and owed.purpose != delivery.purpose:
                return f"expected a tree to {owed.purpose}, as assigned, got one to {delivery.purpose}"
            if self._ledger.owes(delivery.actor_id, delivery.assignment_id):
                return None
        return (
            f"expected one tree of each assignment granted to its actor, got one of {delivery.assignment_id}"
        )

    def _expect_admissible(self, delivery: TreeDelivery) -> None:
        with self._lock:
            assignment = self._ledger.owed(delivery.actor_id, delivery.assignment_id)
        expect_admissible(delivery.tree, assignment, self._expectation, newest_version=self.newest_version)

    def _reject(self, identity: bytes, delivery: TreeDelivery, kind: str, reason: str) -> None:
        self.rejected += 1
        self._complaints.add(kind, f"{reason} (of {delivery.actor_id}, {delivery.tree.env_id})")
        with self._lock:
            self._no_tree_of(delivery.actor_id, delivery.assignment_id, delivery.run_id)
        answer = Reject(sequence_number=delivery.sequence_number, reason=shortened(reason, MAX_TEXT))
        self._send(identity, answer)

    def _no_tree_of(self, actor_id: str, assignment_id: int, run_id: str) -> None:
        """What the actor held under this id, granted by that run, brings no tree. The lock is held."""
        if run_id == self._run_id:
            self._ledger.drop(actor_id, assignment_id)
        else:
            # While an actor works on this id for another run, it takes no grant of the same id.
            self._ledger.take_back(actor_id, [assignment_id])

    def _greet(self, identity: bytes, hello: ActorHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            reason = (
                f"expected protocol {PROTOCOL_VERSION} as of the learner, got {hello.protocol} of the actor"
            )
            self._complaints.add("actors of another protocol", f"{hello.actor_id}: {reason}")
            self._send(identity, Stop(reason=reason))
            return
        actor = self._register.hear(identity, hello.actor_id, hello.capacity, hello.episodes)
        if actor is not None:
            actor.told_to_stop = False
            if hello.lasting:
                self._send(identity, self._grant_of([]))

    def _tell_to_stop(self, reason: str) -> None:
        for actor in self._register.actors.values():
            if not actor.told_to_stop:
                actor.told_to_stop = self._send(actor.identity, Stop(reason=reason))

    def _grant(self) -> None:
        actors = self._register.actors
        seats = math.ceil(self._evaluation_share * self._register.episodes())
        hands = self._register.hands()
        granted = self._ledger.grant(hands, time.monotonic(), evaluation_seats=seats)
        for actor_id, assignments in granted.items():
            actor = actors[actor_id]
            if self._send(actor.identity, self._grant_of(assignments)):
                # The next round begins with somebody else.
                actors[actor_id] = actors.pop(actor_id)
            else:
                # Gone or stuck: no more for it until it is heard again; what it holds stays until it is lost.
                actor.reachable = False
                self._ledger.take_back(actor_id, [a.assignment_id for a in assignments])

    def _grant_of(self, assignments: list[Assignment]) -> Grant:
        most = self._links.max_message_bytes
        return Grant(assignments=assignments, run_id=self._run_id, max_message_bytes=most)

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
