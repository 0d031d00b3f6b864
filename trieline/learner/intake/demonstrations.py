"""An expert's episodes for a supervised warm start: asked of the actors, a step ahead."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from trieline.learner.errors import GLANCE_S, StopRequested, TrainingError
from trieline.wire.config import EnvConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.tree import TrajectoryTree

# The seeds from here to twice as many: above every one that the curriculum hands out, so that no
# demonstration shows a task of the training.
DEMONSTRATION_SEEDS = 2**30
# Demonstrations that may be broken for each one that a step needs: then something is broken for good.
MAX_BROKEN_RATIO = 1


class Demonstrations:
    """The trees of one warm-start step after the other: environments in turn, their levels in turn."""

    def __init__(
        self,
        receiver: TreeReceiver,
        envs: Sequence[EnvConfig],
        *,
        seed: int,
        next_id: Callable[[], int],
        timeout_s: float,
        stop: threading.Event,
    ) -> None:
        """`timeout_s`: for the demonstrations of one step."""
        self._receiver = receiver
        self._envs = envs
        self._seed = seed
        self._next_id = next_id
        self._timeout_s = timeout_s
        self._stop = stop
        self._next_number: int | None = None
        """Of the seed that is shown next. The first is an assignment's id: restarts share no ids, and so show
        nothing that was shown before."""
        self._shown = Counter[str]()
        self._ahead: list[int] = []
        """Ids asked for beyond the last step, in order, in the environments of `_wanted`."""
        self._wanted: frozenset[str] = frozenset()
        self._came: dict[int, TrajectoryTree] = {}

    def collect(self, count: int, wanted: Collection[str]) -> list[TrajectoryTree]:
        """`count` expert's episodes in these environments, others at every call; in all if `wanted` is empty.

        Raises:
            StopRequested: somebody asked to stop.
            TrainingError: they did not come in time, or an environment has none to show.
        """
        if self._wanted != frozenset(wanted):
            self._ahead, self._wanted = [], frozenset(wanted)
            self._came.clear()
        trees: list[TrajectoryTree] = []
        broken = 0
        deadline = time.monotonic() + self._timeout_s
        while len(trees) < count:
            self._ask(2 * count - len(trees))
            tree = self._next(deadline)
            if tree is None or any(tree.leaf_causes):
                broken += 1
                if broken > MAX_BROKEN_RATIO * count:
                    why = "it never came" if tree is None else tree.info.get("broken", "no reason given")
                    msg = f"{broken} demonstrations failed where {count} were needed; the last: {why}"
                    raise TrainingError(msg)
                continue
            trees.append(tree)
        return trees

    def _ask(self, ahead: int) -> None:
        missing = [self._assignment() for _ in range(ahead - len(self._ahead))]
        self._ahead += [a.assignment_id for a in missing]
        if missing:
            self._receiver.offer(missing)

    def _assignment(self) -> Assignment:
        assignment_id = self._next_id()
        number = assignment_id if self._next_number is None else self._next_number
        self._next_number = number + 1
        envs = [env for env in self._envs if not self._wanted or env.id in self._wanted]
        env = envs[number % len(envs)]
        levels = env.curriculum.levels
        level = levels[self._shown[env.id] % len(levels)] if levels else None
        self._shown[env.id] += 1
        return Assignment(
            assignment_id=assignment_id,
            env_id=env.id,
            seed=DEMONSTRATION_SEEDS + (self._seed * 1_000_003 + number) % DEMONSTRATION_SEEDS,
            level=level,
            group_size=1,
            purpose="demonstrate",
        )

    def _next(self, deadline: float) -> TrajectoryTree | None:
        """The tree of the next id: in the order in which they were asked for, whichever comes first.

        None: it was refused or given up, and will never come.
        """
        number = self._ahead.pop(0)
        while number not in self._came:
            if self._stop.is_set():
                raise StopRequested
            # Asked first: what is not outstanding has been queued before.
            no_more = self._receiver.outstanding("demonstrate") == 0
            try:
                delivery = self._receiver.get(0 if no_more else GLANCE_S, "demonstrate")
            except PeerTimeoutError as error:
                if no_more:
                    return None
                if time.monotonic() < deadline:
                    continue
                msg = f"waited {self._timeout_s:g} s for the demonstrations of a step: {error}"
                raise TrainingError(msg) from error
            if delivery.assignment_id in {number, *self._ahead}:
                self._came[delivery.assignment_id] = delivery.tree
        return self._came.pop(number)
