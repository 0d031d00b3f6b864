"""Who owes which tree: assignments that wait for an actor, and those that an actor holds.

Every offered assignment is in exactly one place, waiting or with one actor, until it is closed, given up or
withdrawn. An actor from which it was taken back may bring its tree all the same, once.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from trieline.wire.messages import Assignment, Purpose

# Assignments taken back that are remembered, the latest ones; trees of older ones are nobody's.
MAX_TAKEN_BACK = 10_000
# Trees that may come for assignments of before a restart: far more than were ever under way.
MAX_EARLIER = 10_000


@dataclass(slots=True)
class Hand:
    """What one actor can still take."""

    assignments: int
    episodes: int | None = None
    """The last assignment may go beyond it. None: only the number of assignments counts."""

    def is_full(self) -> bool:
        return self.assignments <= 0 or (self.episodes is not None and self.episodes < 0)

    def take(self, assignment: Assignment) -> None:
        self.assignments -= 1
        if self.episodes is not None:
            self.episodes -= assignment.group_size


class AssignmentLedger:
    """Plain bookkeeping; the owner locks it. Times are of the owner's clock, in seconds."""

    def __init__(self, *, max_losses: int | None = None) -> None:
        """`max_losses`: an assignment that so many lost actors held is given up. None: never."""
        self._max_losses = max_losses
        self._losses: Counter[int] = Counter()
        self._given_up: list[Assignment] = []
        self._waiting: deque[Assignment] = deque()
        self._evaluations: deque[Assignment] = deque()
        """They wait in a line of their own, so that neither they nor training stand in the other's way."""
        self._held: dict[str, dict[int, tuple[Assignment, float]]] = {}
        self._outstanding = Counter[Purpose]()
        self._episodes = Counter[str]()
        """By actor, of what it holds."""
        self._evaluated_episodes = 0
        """Of all evaluations that are held."""
        self._unwanted: set[int] = set()
        """Withdrawn while they were held."""
        self._taken_back: dict[tuple[str, int], Assignment] = {}
        self._first_id: int | None = None
        self._closed_earlier: set[tuple[str, int]] = set()

    def outstanding(self, purpose: Purpose) -> int:
        """Assignments of that purpose that wait or are held."""
        return self._outstanding[purpose]

    def episodes_of(self, actor_id: str) -> int:
        """Episodes of the assignments that one actor holds."""
        return self._episodes[actor_id]

    def held_by(self, actor_id: str) -> Collection[int]:
        """Ids of the assignments of one actor."""
        return self._held.get(actor_id, {}).keys()

    def offer(self, assignments: Iterable[Assignment]) -> None:
        """Queue assignments behind those that wait."""
        for assignment in assignments:
            self._line_of(assignment).append(assignment)
            self._outstanding[assignment.purpose] += 1
            if self._first_id is None or assignment.assignment_id < self._first_id:
                self._first_id = assignment.assignment_id

    def withdraw(self, assignment_ids: Collection[int]) -> None:
        """Grant these to nobody any more. The tree of one that is held may still come."""
        for line in (self._waiting, self._evaluations):
            for assignment in [a for a in line if a.assignment_id in assignment_ids]:
                line.remove(assignment)
                self._forget(assignment)
        held = {assignment_id for of_actor in self._held.values() for assignment_id in of_actor}
        self._unwanted |= held.intersection(assignment_ids)

    def grant(
        self, free: Mapping[str, Hand], now: float, *, evaluation_seats: int
    ) -> dict[str, list[Assignment]]:
        """Deal the waiting assignments one by one in the order of `free` (by actor id).

        Evaluations get no more than `evaluation_seats` episodes at once while others wait.
        """
        granted: dict[str, list[Assignment]] = {}
        hands = {actor_id: hand for actor_id, hand in free.items() if not hand.is_full()}
        while hands:
            for actor_id in list(hands):
                seat = self._evaluated_episodes < evaluation_seats or not self._waiting
                lines = (self._evaluations, self._waiting) if seat else (self._waiting,)
                found = (self._next_for(actor_id, line) for line in lines)
                assignment = next((a for a in found if a is not None), None)
                if assignment is None:
                    del hands[actor_id]
                    continue
                self._held.setdefault(actor_id, {})[assignment.assignment_id] = (assignment, now)
                self._count(actor_id, assignment, assignment.group_size)
                granted.setdefault(actor_id, []).append(assignment)
                hands[actor_id].take(assignment)
                if hands[actor_id].is_full():
                    del hands[actor_id]
        return granted

    def _next_for(self, actor_id: str, line: deque[Assignment]) -> Assignment | None:
        """The first that waits; of those whose next loss is the last, one at a time.

        So none that was only held beside the guilty one is given up with it.
        """
        held_one = self._losses and any(self._is_suspect(i) for i in self.held_by(actor_id))
        for place, assignment in enumerate(line):
            if not (held_one and self._is_suspect(assignment.assignment_id)):
                del line[place]
                return assignment
        return None

    def _is_suspect(self, assignment_id: int) -> bool:
        losses = self._losses[assignment_id]
        return self._max_losses is not None and losses > 0 and losses >= self._max_losses - 1

    def take_given_up(self) -> list[Assignment]:
        """Those to train on that were given up since the last call."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def owes(self, actor_id: str, assignment_id: int) -> bool:
        """Whether this actor may bring a tree of the assignment: it was granted it, and has not closed it.

        Ids only grow, so one below all that were offered here was granted before a restart, nobody knows to
        whom: every actor may close it once, and `MAX_EARLIER` are taken in all.
        """
        if self._is_earlier(assignment_id):
            key = (actor_id, assignment_id)
            return key not in self._closed_earlier and len(self._closed_earlier) < MAX_EARLIER
        return self.owed(actor_id, assignment_id) is not None

    def owed(self, actor_id: str, assignment_id: int) -> Assignment | None:
        """The assignment that this actor owes a tree of; None if it owes none, or one of before a restart."""
        held = self._held.get(actor_id, {}).get(assignment_id)
        return held[0] if held is not None else self._taken_back.get((actor_id, assignment_id))

    def close(self, actor_id: str, assignment_id: int) -> bool:
        """Its tree has come. False if this actor did not hold the assignment."""
        if self._is_earlier(assignment_id) and len(self._closed_earlier) < MAX_EARLIER:
            self._closed_earlier.add((actor_id, assignment_id))
        return self.drop(actor_id, assignment_id)

    def drop(self, actor_id: str, assignment_id: int) -> bool:
        """Its tree was refused, or will never come. False if this actor did not hold the assignment."""
        self._taken_back.pop((actor_id, assignment_id), None)
        held = self._held.get(actor_id)
        if held is None or (found := held.pop(assignment_id, None)) is None:
            return False
        self._count(actor_id, found[0], -found[0].group_size)
        self._forget(found[0])
        if not held:
            del self._held[actor_id]
        return True

    def take_back(
        self, actor_id: str, assignment_ids: Iterable[int] | None = None, *, lost: bool = False
    ) -> int:
        """Put an actor's assignments (all, or some) back to the front, oldest first; how many they were.

        `lost`: the actor is gone, and one of them may have been why.
        """
        held = self._held.get(actor_id, {})
        taken = [i for i in (list(held) if assignment_ids is None else assignment_ids) if i in held]
        for assignment_id in reversed(taken):
            assignment = held.pop(assignment_id)[0]
            self._count(actor_id, assignment, -assignment.group_size)
            if lost:
                self._losses[assignment_id] += 1
            if assignment_id in self._unwanted:
                self._forget(assignment)
            elif self._max_losses is not None and self._losses[assignment_id] >= self._max_losses:
                self._give_up(assignment)
            else:
                self._line_of(assignment).appendleft(assignment)
            # Behind the others, also if it was taken back before.
            self._taken_back.pop((actor_id, assignment_id), None)
            self._taken_back[actor_id, assignment_id] = assignment
        while len(self._taken_back) > MAX_TAKEN_BACK:
            del self._taken_back[next(iter(self._taken_back))]
        if not held:
            self._held.pop(actor_id, None)
        return len(taken)

    def unknown_to(self, actor_id: str, listed: Collection[int], granted_before: float) -> list[int]:
        """Ids granted before that time which the actor does not list as its own: lost on the way."""
        held = self._held.get(actor_id, {})
        return [i for i, (_, granted_at) in held.items() if granted_at < granted_before and i not in listed]

    def _forget(self, assignment: Assignment) -> None:
        self._losses.pop(assignment.assignment_id, None)
        self._unwanted.discard(assignment.assignment_id)
        self._outstanding[assignment.purpose] -= 1

    def _give_up(self, assignment: Assignment) -> None:
        self._forget(assignment)
        if assignment.purpose == "train":
            self._given_up.append(assignment)

    def _count(self, actor_id: str, assignment: Assignment, episodes: int) -> None:
        self._episodes[actor_id] += episodes
        if not self._episodes[actor_id]:
            del self._episodes[actor_id]
        if assignment.purpose == "evaluate":
            self._evaluated_episodes += episodes

    def _line_of(self, assignment: Assignment) -> deque[Assignment]:
        return self._evaluations if assignment.purpose == "evaluate" else self._waiting

    def _is_earlier(self, assignment_id: int) -> bool:
        return self._first_id is None or assignment_id < self._first_id
