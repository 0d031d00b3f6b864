"""Where the trees of a step come from: live actors through the journal, or a recorded journal.

Trees are always taken in the order of the journal, so that "so many records are used up" says everything.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trieline.learner.errors import GLANCE_S, StopRequested, TrainingError
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.staleness import Pacing
from trieline.learner.intake.tree_metrics import broken_episodes
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.journal import read_journal
from trieline.wire.messages import Assignment, TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

# Trees without a single scored rollout that one actor sends in a row, for each one that a step needs: then it
# is broken for good. Its tasks in flight may all fail at once when a policy server or a sandbox restarts.
MAX_BROKEN_RATIO = 8


class OutOfTrees(Exception):
    """A recorded journal has no further step in it."""


@dataclass(kw_only=True, slots=True)
class StepTrees:
    """What one step uses up."""

    trees: list[TrajectoryTree] = field(default_factory=list)
    """To train on."""
    taken: list[TrajectoryTree] = field(default_factory=list)
    """All that were taken from the journal, those that were too old or broken included, in its order."""
    idle: list[TrajectoryTree] = field(default_factory=list)
    """Of `trees`: those that teach nothing, in place of which others were waited for."""
    given_up: list[Assignment] = field(default_factory=list)
    """Tasks that took down their actors, and will bring no tree."""
    preloaded: int = 0
    """Of `taken`: accepted by an earlier start of the process."""
    too_old: int = 0
    broken: int = 0
    """Trees without a scored leaf."""

    @property
    def num_records(self) -> int:
        return len(self.taken)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSize:
    """How many trees make a step."""

    trees_per_step: int
    most: int
    """Trees that are taken into a step at most, while too few of them teach anything."""
    teaches: Callable[[TrajectoryTree], bool]

    def take(self, step: StepTrees, tree: TrajectoryTree, *, too_old: bool = False) -> None:
        """The next tree of the journal goes into `step`, or is counted there."""
        step.taken.append(tree)
        if not _is_scored(tree):
            step.broken += 1
        elif too_old:
            step.too_old += 1
        else:
            step.trees.append(tree)
            if self.most > self.trees_per_step and not self.teaches(tree):
                step.idle.append(tree)

    def missing(self, step: StepTrees) -> int:
        """How many more trees the step may still take."""
        teaching = len(step.trees) - len(step.idle)
        return min(self.trees_per_step - teaching, self.most - len(step.trees))


class TreeSource(Protocol):
    """Gives the trees of one step after the other."""

    def collect(self, policy_version: int) -> StepTrees:
        """The trees of the next step, for weights of `policy_version`, which all policy servers serve.

        Raises:
            StopRequested: somebody asked to stop; nothing is used up.
            OutOfTrees: there are no more.
            TrainingError: they did not come in time.
        """

    def buffered(self) -> int:
        """Trees that are here already."""


class ReplaySource:
    """Steps from a recorded journal. Nothing is dropped for its age: the versions are another run's."""

    def __init__(
        self, folder: Path, size: StepSize, *, start: int, stop: threading.Event, epochs: int = 1
    ) -> None:
        """`start`: records that earlier steps have used up."""
        self._deliveries = _replayed(folder, start, epochs)
        self._size = size
        self._stop = stop

    def collect(self, policy_version: int) -> StepTrees:
        """As in `TreeSource`. The last step has what is left."""
        step = StepTrees()
        while missing := self._size.missing(step):
            if self._stop.is_set():
                raise StopRequested
            delivery = next(self._deliveries, None)
            if delivery is None:
                if not step.trees:
                    raise OutOfTrees
                log.info("the recorded journal ends: the last step lacks %d trees", missing)
                break
            self._size.take(step, delivery.tree)
        return step

    def buffered(self) -> int:
        return 0


def _replayed(folder: Path, start: int, epochs: int) -> Iterator[TreeDelivery]:
    """All records `epochs` times, without the first `start` of them."""
    for epoch in range(epochs):
        for number, delivery in enumerate(read_journal(folder)):
            if epoch == 0:
                length = number + 1
            if epoch * length + number >= start:
                yield delivery


class LiveSource:
    """Asks actors for trees, no more than may be under way, and gathers them."""

    def __init__(
        self,
        receiver: TreeReceiver,
        curriculum: Curriculum,
        pacing: Pacing,
        size: StepSize,
        *,
        batch_timeout_s: float,
        stop: threading.Event,
    ) -> None:
        """`batch_timeout_s`: for the next tree that can be trained on."""
        self._receiver = receiver
        self._curriculum = curriculum
        self._pacing = pacing
        self._size = size
        self._timeout_s = batch_timeout_s
        self._stop = stop
        self._buffer: deque[TreeDelivery] = deque()
        self._preloaded = 0
        self._broken_in_a_row: Counter[str] = Counter()
        """By actor."""

    def preload(self, deliveries: Iterable[TreeDelivery]) -> int:
        """Trees that an earlier start accepted and did not train on. Returns how many there are."""
        self._buffer.extend(deliveries)
        self._preloaded = len(self._buffer)
        return self._preloaded

    def collect(self, policy_version: int) -> StepTrees:
        """As in `TreeSource`."""
        step, since = StepTrees(), time.monotonic()
        while self._size.missing(step):
            self._take_stock(step)
            self._top_up(step, policy_version)
            if not self._buffer and not self._wait(step, since):
                continue
            delivery, enough = self._buffer.popleft(), len(step.trees)
            too_old = self._pacing.is_too_old(delivery.tree, policy_version)
            self._size.take(step, delivery.tree, too_old=too_old)
            if len(step.trees) > enough:
                since = time.monotonic()
            if step.num_records > self._preloaded:
                self._judge(delivery, step)
        step.preloaded = min(self._preloaded, step.num_records)
        self._preloaded -= step.preloaded
        return step

    def buffered(self) -> int:
        self._drain()
        return len(self._buffer)

    def _take_stock(self, step: StepTrees) -> None:
        """What has come, what never will, and how much may be under way."""
        # Asked first: what comes or is given up meanwhile is counted twice, and nothing as lost.
        outstanding = self._receiver.outstanding()
        self._drain()
        self._set_tasks_aside(step)
        here = len(self._buffer) + step.num_records + len(step.given_up)
        self._curriculum.expect_at_most(outstanding + here)

    def _top_up(self, step: StepTrees, policy_version: int) -> None:
        usable = sum(
            _is_scored(d.tree) and not self._pacing.is_too_old(d.tree, policy_version) for d in self._buffer
        )
        # What this step has no more room for must not be asked for: it would get too old.
        in_step = self._pacing.trees_per_step - self._size.missing(step)
        missing = self._pacing.allowance(outstanding=self._receiver.outstanding(), buffered=usable + in_step)
        if missing:
            self._receiver.offer([self._curriculum.next_assignment() for _ in range(missing)])

    def _drain(self) -> None:
        """Move what has come already, without waiting."""
        try:
            while True:
                self._buffer.append(self._receiver.get(0))
        except PeerTimeoutError:
            pass

    def _wait(self, step: StepTrees, since: float) -> bool:
        """Wait a moment for one tree.

        Raises:
            StopRequested: somebody asked to stop.
            TrainingError: nothing to train on has come since then for too long.
        """
        if self._stop.is_set():
            # What was taken so far is still in the journal.
            raise StopRequested
        try:
            self._buffer.append(self._receiver.get(GLANCE_S))
        except PeerTimeoutError as error:
            if time.monotonic() < since + self._timeout_s:
                return False
            msg = (
                f"waited {self._timeout_s:g} s for the next of the {self._pacing.trees_per_step} trees of a "
                f"step and got {len(step.trees)} ({step.broken} more were broken, {step.too_old} too old): "
                f"{error}"
            )
            raise TrainingError(msg) from error
        return True

    def _set_tasks_aside(self, step: StepTrees) -> None:
        for task in self._receiver.take_given_up():
            log.error(
                "%s: %s was held by %d workers when they were lost: it is set aside as broken",
                task.env_id,
                f"the task of seed {task.seed} and level {task.level}"
                if task.task_id is None
                else f"the task {task.task_id!r}",
                self._receiver.max_losses,
            )
            step.given_up.append(task)

    def _judge(self, delivery: TreeDelivery, step: StepTrees) -> None:
        """An actor that sends broken trees alone is given no more tasks.

        Raises:
            TrainingError: no other actor lives.
        """
        actor_id = delivery.actor_id
        if _is_scored(delivery.tree):
            self._broken_in_a_row.pop(actor_id, None)
            return
        self._broken_in_a_row[actor_id] += 1
        limit = MAX_BROKEN_RATIO * self._pacing.trees_per_step
        if self._broken_in_a_row[actor_id] <= limit or self._receiver.is_set_aside(actor_id):
            return
        why = delivery.tree.info.get("broken", "no reason given")
        msg = (
            f"{self._broken_in_a_row.pop(actor_id)} trees in a row came from actor {actor_id} without a "
            f"single scored rollout, expected at most {limit} ({_causes(step)}); the last: {why}"
        )
        self._receiver.set_aside(actor_id)
        if all(self._receiver.is_set_aside(other) for other in self._receiver.actors()):
            msg += ". No other actor lives"
            raise TrainingError(msg)
        log.error("%s. It is given no more tasks", msg)


def _causes(step: StepTrees) -> str:
    causes = Counter(f"{tree.env_id}: {cause}" for tree in step.taken for cause in broken_episodes(tree))
    return ", ".join(f"{count} x {cause}" for cause, count in causes.most_common(4))


def _is_scored(tree: TrajectoryTree) -> bool:
    return bool(tree.scored_leaves())
