"""Who owes which tree: assignments that wait for an actor, and those that an actor holds.

Every offered assignment is in exactly one place, waiting or with one actor, until it is closed or given up.
An actor from which it was taken back may bring its tree all the same, once.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping

from trieline.wire.messages import Assignment


class AssignmentLedger:
    """Plain bookkeeping; the owner locks it. Times are of the owner's clock, in seconds."""

    def __init__(self, *, max_losses: int | None = None) -> None:
        """`max_losses`: an assignment that so many lost actors held is given up. None: never."""
        self._max_losses = max_losses
        self._losses: Counter[int] = Counter()
        self._given_up: list[Assignment] = []
        self._waiting: deque[Assignment] = deque()
        self._held: dict[str, dict[int, tuple[Assignment, float]]] = {}
        self._taken_back: set[tuple[str, int]] = set()
        self._first_id: int | None = None
        self._closed_earlier: set[tuple[str, int]] = set()

    def outstanding(self) -> int:
        """Assignments that wait or are held."""
        return len(self._waiting) + sum(len(held) for held in self._held.values())

    def held_by(self, actor_id: str) -> Collection[int]:
        """Ids of the assignments of one actor."""
        return self._held.get(actor_id, {}).keys()

    def offer(self, assignments: Iterable[Assignment]) -> None:
        """Queue assignments behind those that wait."""
        for assignment in assignments:
            self._waiting.append(assignment)
            if self._first_id is None or assignment.assignment_id < self._first_id:
                self._first_id = assignment.assignment_id

    def grant(self, free: Mapping[str, int], now: float) -> dict[str, list[Assignment]]:
        """Deal the waiting assignments one by one in the order of `free` (actor id: how many it can take)."""
        granted: dict[str, list[Assignment]] = {}
        hands = {actor_id: count for actor_id, count in free.items() if count > 0}
        while hands and self._waiting:
            for actor_id in list(hands):
                assignment = self._next_for(actor_id)
                if assignment is None:
                    del hands[actor_id]
                    continue
                self._held.setdefault(actor_id, {})[assignment.assignment_id] = (assignment, now)
                granted.setdefault(actor_id, []).append(assignment)
                hands[actor_id] -= 1
                if hands[actor_id] == 0:
                    del hands[actor_id]
        return granted

    def _next_for(self, actor_id: str) -> Assignment | None:
        """The first that waits; of those whose next loss is the last, one at a time.

        So none that was only held beside the guilty one is given up with it.
        """
        held_one = any(self._is_suspect(i) for i in self.held_by(actor_id))
        for place, assignment in enumerate(self._waiting):
            if not (held_one and self._is_suspect(assignment.assignment_id)):
                del self._waiting[place]
                return assignment
        return None

    def _is_suspect(self, assignment_id: int) -> bool:
        losses = self._losses[assignment_id]
        return self._max_losses is not None and losses > 0 and losses >= self._max_losses - 1

    def take_given_up(self) -> list[Assignment]:
        """Those given up since the last call."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def owes(self, actor_id: str, assignment_id: int) -> bool:
        """Whether this actor may bring a tree of the assignment: it was granted it, and has not closed it.

        Ids only grow, so one below all that were offered here was granted before a restart, nobody knows to
        whom: every actor may close it once.
        """
        if self._is_earlier(assignment_id):
            return (actor_id, assignment_id) not in self._closed_earlier
        return assignment_id in self.held_by(actor_id) or (actor_id, assignment_id) in self._taken_back

    def close(self, actor_id: str, assignment_id: int) -> bool:
        """The tree has come, or never will. False if this actor did not hold the assignment."""
        if self._is_earlier(assignment_id):
            self._closed_earlier.add((actor_id, assignment_id))
        self._taken_back.discard((actor_id, assignment_id))
        held = self._held.get(actor_id, {})
        if assignment_id in held:
            self._losses.pop(assignment_id, None)
        return held.pop(assignment_id, None) is not None

    def take_back(
        self, actor_id: str, assignment_ids: Iterable[int] | None = None, *, lost: bool = False
    ) -> int:
        """Put an actor's assignments (all, or some) back to the front, oldest first; how many they were.

        `lost`: the actor is gone, and one of them may have been why.
        """
        held = self._held.get(actor_id, {})
        taken = [i for i in (list(held) if assignment_ids is None else assignment_ids) if i in held]
        for assignment_id in reversed(taken):
            assignment, _ = held.pop(assignment_id)
            self._taken_back.add((actor_id, assignment_id))
            if lost:
                self._losses[assignment_id] += 1
            if self._max_losses is not None and self._losses[assignment_id] >= self._max_losses:
                del self._losses[assignment_id]
                self._given_up.append(assignment)
            else:
                self._waiting.appendleft(assignment)
        if not held:
            self._held.pop(actor_id, None)
        return len(taken)

    def unknown_to(self, actor_id: str, listed: Collection[int], granted_before: float) -> list[int]:
        """Ids granted before that time which the actor does not list as its own: lost on the way."""
        held = self._held.get(actor_id, {})
        return [i for i, (_, granted_at) in held.items() if granted_at < granted_before and i not in listed]

    def _is_earlier(self, assignment_id: int) -> bool:
        return self._first_id is None or assignment_id < self._first_id
