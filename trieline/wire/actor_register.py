"""Who is there: the actors that the learner hears, what each can take, and what becomes of those it loses."""

import logging
import time
from dataclasses import dataclass

from trieline.common.complaints import Complaints
from trieline.wire.assignment_ledger import AssignmentLedger, Hand
from trieline.wire.messages import ActorHeartbeat

MAX_ACTORS = 4_096
GRANT_AT_ONCE = 1_000
# Of an assignment that an earlier learner granted nobody knows the group any more; this is the usual one.
FOREIGN_EPISODES = 8


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
class Actor:
    """One live actor."""

    identity: bytes
    """Of its connection."""
    capacity: int
    heard_at: float
    running_episodes: int = 0
    delivered_trees: int = 0
    foreign: int = 0
    """Assignments that it still works on for a learner before this one: they fill its capacity, too."""
    reachable: bool = True
    told_to_stop: bool = False
    episodes: int = 0
    """As in ActorHello."""


class ActorRegister:
    """Plain bookkeeping; the owner locks it. What a lost actor held goes back to the ledger."""

    def __init__(self, ledger: AssignmentLedger, complaints: Complaints, *, peer_timeout_s: float) -> None:
        self.lost = 0
        self.actors: dict[str, Actor] = {}
        """By id, in the order in which they get the next grant."""
        self.set_aside: set[str] = set()
        """Ids of actors that are granted nothing more."""
        self._ledger = ledger
        self._complaints = complaints
        self._peer_timeout_s = peer_timeout_s

    def hear(self, identity: bytes, actor_id: str, capacity: int, episodes: int) -> Actor | None:
        """The record of an actor that just spoke; a new one if it is unknown and says its capacity."""
        actor = self.actors.get(actor_id)
        if actor is None:
            if capacity == 0:
                return None
            if len(self.actors) >= MAX_ACTORS:
                self._complaints.add(
                    "actors beyond the most that are served", f"{actor_id}, {MAX_ACTORS} are"
                )
                return None
            actor = self.actors[actor_id] = Actor(identity=identity, capacity=capacity, heard_at=0)
            self._complaints.add("actors joined", f"{actor_id}, capacity {capacity}", level=logging.INFO)
        actor.identity = identity
        actor.capacity = capacity or actor.capacity
        actor.episodes = episodes
        actor.heard_at = time.monotonic()
        actor.reachable = True
        return actor

    def hear_heartbeat(self, identity: bytes, heartbeat: ActorHeartbeat) -> None:
        """What it lists as open fills its capacity; what it does not list for long never reached it."""
        actor = self.hear(identity, heartbeat.actor_id, heartbeat.capacity, heartbeat.episodes)
        if actor is None:
            return
        listed = frozenset(heartbeat.open_assignments)
        actor.running_episodes = heartbeat.running_episodes
        actor.foreign = len(listed.difference(self._ledger.held_by(heartbeat.actor_id)))
        long_ago = time.monotonic() - self._peer_timeout_s
        lost = self._ledger.unknown_to(heartbeat.actor_id, listed, long_ago)
        if lost:
            self._ledger.take_back(heartbeat.actor_id, lost)
            detail = f"{len(lost)} assignments of {heartbeat.actor_id}, which go to others"
            self._complaints.add("grants that never arrived", detail)

    def note_delivery(self, actor_id: str) -> None:
        """A tree of it was accepted."""
        if (actor := self.actors.get(actor_id)) is not None:
            actor.delivered_trees += 1
            actor.heard_at = time.monotonic()

    def forget_silent(self) -> None:
        """Whoever was not heard for the time-out is lost."""
        long_ago = time.monotonic() - self._peer_timeout_s
        for actor_id in [i for i, actor in self.actors.items() if actor.heard_at < long_ago]:
            self.lost += 1
            self.remove(actor_id, "actors lost", lost=True, level=logging.WARNING)

    def remove(self, actor_id: str, kind: str, *, lost: bool, level: int = logging.INFO) -> None:
        """It left, or is lost over what it held; `kind` is for the log."""
        if self.actors.pop(actor_id, None) is not None:
            count = self._ledger.take_back(actor_id, lost=lost)
            self._complaints.add(
                kind, f"{actor_id}, whose {count} open assignments go to others", level=level
            )

    def hands(self) -> dict[str, Hand]:
        """What each actor can take now."""
        able = {i: actor for i, actor in self.actors.items() if actor.reachable and i not in self.set_aside}
        return {i: self._hand(i, actor) for i, actor in able.items()}

    def _hand(self, actor_id: str, actor: Actor) -> Hand:
        held = len(self._ledger.held_by(actor_id))
        hand = Hand(assignments=min(actor.capacity - held - actor.foreign, GRANT_AT_ONCE))
        if actor.episodes:
            foreign = actor.foreign * FOREIGN_EPISODES
            hand.episodes = actor.episodes - self._ledger.episodes_of(actor_id) - foreign
        return hand

    def episodes(self) -> int:
        """Episodes that all actors play at once; of those that do not say, the assignments that they take."""
        return sum(actor.episodes or actor.capacity for actor in self.actors.values())

    def status(self) -> dict[str, ActorStatus]:
        """For people and metrics."""
        now = time.monotonic()
        return {
            actor_id: ActorStatus(
                actor_id=actor_id,
                capacity=actor.capacity,
                running_episodes=actor.running_episodes,
                held_assignments=len(self._ledger.held_by(actor_id)),
                delivered_trees=actor.delivered_trees,
                silent_s=now - actor.heard_at,
            )
            for actor_id, actor in self.actors.items()
        }
