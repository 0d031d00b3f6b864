"""The trajectory link as the intake sees it, without sockets: what was asked for, and what comes."""

from collections import deque
from collections.abc import Iterable

from trieline.wire.errors import PeerTimeoutError
from trieline.wire.messages import Assignment, Purpose, TreeDelivery
from trieline.wire.tree import TrajectoryTree


class FakeReceiver:
    """The test answers assignments by `come` and `give_up`."""

    def __init__(self) -> None:
        self.offered: list[Assignment] = []
        self.withdrawn: set[int] = set()
        self._open: dict[int, Assignment] = {}
        self._trees: dict[Purpose, deque[TreeDelivery]] = {}

    def offer(self, assignments: list[Assignment]) -> None:
        self.offered += assignments
        self._open |= {a.assignment_id: a for a in assignments}

    def withdraw(self, assignment_ids: Iterable[int]) -> None:
        """They count as begun, and may still come."""
        self.withdrawn |= set(assignment_ids)

    def outstanding(self, purpose: Purpose = "train") -> int:
        return sum(a.purpose == purpose for a in self._open.values())

    def get(self, timeout_s: float, purpose: Purpose = "train") -> TreeDelivery:
        try:
            return self._trees.setdefault(purpose, deque()).popleft()
        except IndexError:
            msg = "no tree came"
            raise PeerTimeoutError(msg) from None

    def come(self, assignment_id: int, tree: TrajectoryTree) -> None:
        assignment = self._open.pop(assignment_id)
        delivery = TreeDelivery(
            actor_id="a",
            sequence_number=0,
            assignment_id=assignment_id,
            tree=tree,
            purpose=assignment.purpose,
        )
        self._trees.setdefault(assignment.purpose, deque()).append(delivery)

    def give_up(self, assignment_id: int) -> None:
        del self._open[assignment_id]
