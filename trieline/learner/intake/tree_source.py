"""Where the trees of a step come from: live actors through the journal, or a recorded journal.

Trees are always taken in the order of the journal, so that "so many records are used up" says everything.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trieline.learner.errors import StopRequested, TrainingError
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.staleness import Pacing
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.journal import read_journal
from trieline.wire.messages import TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

# How long a wait goes on before it looks whether somebody asked to stop.
GLANCE_S = 0.25
# Trees without a single scored rollout, for each one that a step needs: then something is broken for good.
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
    preloaded: int = 0
    """Of `taken`: accepted by an earlier start of the process."""
    too_old: int = 0
    broken: int = 0
    """Trees without a scored leaf."""

    @property
    def num_records(self) -> int:
        return len(self.taken)


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
        self, folder: Path, *, trees_per_step: int, start: int, stop: threading.Event, epochs: int = 1
    ) -> None:
        self._deliveries = _replayed(folder, start, epochs)
        self._trees_per_step = trees_per_step
        self._stop = stop

    def collect(self, policy_version: int) -> StepTrees:
        """As in `TreeSource`. A last step of fewer trees is not made."""
        step = StepTrees()
        while len(step.trees) < self._trees_per_step:
            if self._stop.is_set():
                raise StopRequested
            delivery = next(self._deliveries, None)
            if delivery is None:
                raise OutOfTrees
            _take(step, delivery.tree, too_old=False)
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
        *,
        batch_timeout_s: float,
        stop: threading.Event,
    ) -> None:
        self._receiver = receiver
        self._curriculum = curriculum
        self._pacing = pacing
        self._timeout_s = batch_timeout_s
        self._stop = stop
        self._buffer: deque[TreeDelivery] = deque()
        self._preloaded = 0

    def preload(self, deliveries: Iterable[TreeDelivery]) -> int:
        """Trees that an earlier start accepted and did not train on. Returns how many there are."""
        self._buffer.extend(deliveries)
        self._preloaded = len(self._buffer)
        return self._preloaded

    def collect(self, policy_version: int) -> StepTrees:
        """As in `TreeSource`."""
        step, deadline = StepTrees(), time.monotonic() + self._timeout_s
        while len(step.trees) < self._pacing.trees_per_step:
            self._drain()
            self._top_up(step, policy_version)
            if self._buffer or self._wait(step, deadline):
                tree = self._buffer.popleft().tree
                _take(step, tree, too_old=self._pacing.is_too_old(tree, policy_version))
                self._check_broken(step)
        step.preloaded = min(self._preloaded, step.num_records)
        self._preloaded -= step.preloaded
        return step

    def buffered(self) -> int:
        self._drain()
        return len(self._buffer)

    def _top_up(self, step: StepTrees, policy_version: int) -> None:
        usable = sum(
            _is_scored(d.tree) and not self._pacing.is_too_old(d.tree, policy_version) for d in self._buffer
        )
        missing = self._pacing.allowance(
            outstanding=self._receiver.outstanding(), buffered=usable + len(step.trees)
        )
        if missing:
            self._receiver.offer([self._curriculum.next_assignment() for _ in range(missing)])

    def _drain(self) -> None:
        """Move what has come already, without waiting."""
        try:
            while True:
                self._buffer.append(self._receiver.get(0))
        except PeerTimeoutError:
            pass

    def _wait(self, step: StepTrees, deadline: float) -> bool:
        """Wait a moment for one tree.

        Raises:
            StopRequested: somebody asked to stop.
            TrainingError: the deadline of the step has passed.
        """
        if self._stop.is_set():
            # What was taken so far is still in the journal.
            raise StopRequested
        try:
            self._buffer.append(self._receiver.get(GLANCE_S))
        except PeerTimeoutError as error:
            if time.monotonic() < deadline:
                return False
            msg = (
                f"waited {self._timeout_s:g} s for the {self._pacing.trees_per_step} trees of a step and got "
                f"{len(step.trees)} ({step.broken} more were broken, {step.too_old} too old): {error}"
            )
            raise TrainingError(msg) from error
        return True

    def _check_broken(self, step: StepTrees) -> None:
        limit = MAX_BROKEN_RATIO * self._pacing.trees_per_step
        if step.broken <= limit:
            return
        causes = Counter(
            f"{tree.env_id}: {cause}" for tree in step.taken for cause in tree.leaf_causes if cause
        )
        most = ", ".join(f"{count} x {cause}" for cause, count in causes.most_common(4))
        why = next(
            (tree.info["broken"] for tree in reversed(step.taken) if "broken" in tree.info), "no reason given"
        )
        msg = (
            f"{step.broken} trees came without a single scored rollout while {self._pacing.trees_per_step} "
            f"were needed for a step ({most}); the last: {why}"
        )
        raise TrainingError(msg)


def _is_scored(tree: TrajectoryTree) -> bool:
    return any(True for _ in tree.scored_leaves())


def _take(step: StepTrees, tree: TrajectoryTree, *, too_old: bool) -> None:
    step.taken.append(tree)
    if not _is_scored(tree):
        step.broken += 1
    elif too_old:
        step.too_old += 1
    else:
        step.trees.append(tree)
