"""Held-out success: the same tasks before a training run, beside it and after it.

The actors play them like any other assignment, with what they have; the learner asks, and counts.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trieline.common.seeds import derived_seed
from trieline.learner.config import EvaluationConfig
from trieline.learner.errors import GLANCE_S, StopRequested
from trieline.learner.intake.evaluation_report import EvalReport, EvaluatedTask, env_report, policy_versions
from trieline.wire.config import EnvConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

SPLIT = "test"
# Some environments hand the seed to generators that take 32 bits.
SEED_RANGE = 2**31


def evaluation_assignments(
    envs: Sequence[EnvConfig],
    settings: EvaluationConfig,
    next_id: Callable[[], int],
    tasks: Mapping[str, Sequence[str]],
) -> list[Assignment]:
    """`settings.episodes` tasks of each environment: always the same ones.

    Spread evenly over its list in `tasks` (all of a shorter one), if it has any there; over its
    `eval_levels` and drawn by seed if not.
    """
    assignments = []
    for env in envs:
        levels: list[int | None] = [*(env.curriculum.eval_levels or env.curriculum.levels)] or [None]
        listed = _spread(tasks.get(env.id, ()), settings.episodes) if env.asked_for_tasks else []
        assignments += [
            Assignment(
                assignment_id=next_id(),
                env_id=env.id,
                seed=derived_seed(settings.seed, "eval", env.id, task) % SEED_RANGE,
                level=levels[task % len(levels)],
                group_size=settings.attempts,
                split=SPLIT,
                purpose="evaluate",
                temperature=settings.temperature,
                task_id=listed[task] if listed else None,
            )
            for task in range(len(listed) or settings.episodes)
        ]
    return assignments


def _spread(tasks: Sequence[str], most: int) -> list[str]:
    """All of `tasks`, or `most` of them at equal distances."""
    count = min(len(tasks), most)
    return [tasks[number * len(tasks) // count] for number in range(count)]


class Evaluation:
    """One evaluation: its assignments, and the trees that have come."""

    def __init__(self, assignments: Sequence[Assignment], settings: EvaluationConfig) -> None:
        self._assignments = list(assignments)
        self._settings = settings
        self._trees: dict[int, TrajectoryTree] = {}
        self._awaited = {a.assignment_id for a in assignments}

    @property
    def num_tasks(self) -> int:
        return len(self._assignments)

    @property
    def num_played(self) -> int:
        return len(self._trees)

    @property
    def missing(self) -> frozenset[int]:
        """Ids of the assignments whose tree has not come."""
        return frozenset(self._awaited - self._trees.keys())

    @property
    def is_complete(self) -> bool:
        return self.num_played == self.num_tasks

    def take(self, assignment_id: int, tree: TrajectoryTree) -> None:
        """A tree has come. Those of another evaluation, and second ones, are passed over."""
        if assignment_id in self._awaited:
            self._trees.setdefault(assignment_id, tree)

    def report(self) -> EvalReport:
        """Of all tasks; those whose tree has not come count as broken."""
        tasks = [
            EvaluatedTask(assignment=a, tree=self._trees.get(a.assignment_id)) for a in self._assignments
        ]
        by_env: dict[str, list[EvaluatedTask]] = {}
        for task in tasks:
            by_env.setdefault(task.assignment.env_id, []).append(task)
        return EvalReport(
            seed=self._settings.seed,
            temperature=self._settings.temperature,
            split=SPLIT,
            policy_versions=policy_versions(list(self._trees.values())),
            envs=[env_report(of_env, transcripts=self._settings.transcripts) for of_env in by_env.values()],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedEvaluation:
    """An evaluation that is complete."""

    step: int
    """After which it was asked for."""
    report: EvalReport
    seconds: float


class Evaluations:
    """The evaluations of a run, one at a time, beside its training."""

    def __init__(
        self,
        receiver: TreeReceiver,
        envs: Sequence[EnvConfig],
        settings: EvaluationConfig,
        *,
        tasks: Mapping[str, Sequence[str]],
        next_id: Callable[[], int],
        silence_s: float,
        stop: threading.Event,
    ) -> None:
        """`tasks`: the held-out ones of the environments that list them.

        `silence_s`: without a tree for so long, an evaluation that somebody waits for is given up.
        """
        self._receiver = receiver
        self._envs = envs
        self._settings = settings
        self._tasks = tasks
        self._next_id = next_id
        self._silence_s = silence_s
        self._stop = stop
        self._running: Evaluation | None = None
        self._step = 0
        self._began = 0.0

    @property
    def running(self) -> bool:
        return self._running is not None

    def start(self, step: int, settings: EvaluationConfig | None = None) -> None:
        """Ask the actors for an evaluation after `step`. One must not be running."""
        assert self._running is None, "one evaluation at a time"
        settings = settings or self._settings
        assignments = evaluation_assignments(self._envs, settings, self._next_id, self._tasks)
        self._running, self._step, self._began = Evaluation(assignments, settings), step, time.monotonic()
        self._receiver.offer(assignments)

    def poll(self) -> FinishedEvaluation | None:
        """The running evaluation if it is complete now. Never waits."""
        if self._running is None:
            return None
        # Asked first: what is not outstanding has been queued before.
        no_more = self._receiver.outstanding("evaluate") == 0
        while self._take(0):
            pass
        # Of an evaluation that was given up some tasks may be outstanding for good.
        if not (no_more or self._running.is_complete):
            return None
        finished, self._running = self._running, None
        return FinishedEvaluation(
            step=self._step, report=finished.report(), seconds=time.monotonic() - self._began
        )

    def wait(self) -> FinishedEvaluation | None:
        """Wait for the running evaluation. None: none is running, or nothing came any more (said in the log).

        Raises:
            StopRequested: somebody asked to stop.
        """
        heard = time.monotonic()
        while self._running is not None:
            if (finished := self.poll()) is not None:
                return finished
            if self._stop.is_set():
                raise StopRequested
            if self._take(GLANCE_S):
                heard = time.monotonic()
            elif time.monotonic() - heard > self._silence_s:
                self._give_up()
        return None

    def _give_up(self) -> None:
        assert self._running is not None
        log.warning(
            "the evaluation after step %d is given up: %d of its %d tasks came, and none within %g s",
            self._step,
            self._running.num_played,
            self._running.num_tasks,
            self._silence_s,
        )
        # They would be played before the tasks of the next one.
        self._receiver.withdraw(self._running.missing)
        self._running = None

    def _take(self, timeout_s: float) -> bool:
        """Take one tree of the running evaluation; False if none came."""
        assert self._running is not None
        try:
            delivery = self._receiver.get(timeout_s, "evaluate")
        except PeerTimeoutError:
            return False
        self._running.take(delivery.assignment_id, delivery.tree)
        return True
