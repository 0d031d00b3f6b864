"""What a step takes: from a recording to its end, and from live actors, good, bad and deadly ones."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from trieline.learner.errors import TrainingError
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.staleness import Pacing
from trieline.learner.intake.tree_source import (
    MAX_BROKEN_RATIO,
    LiveSource,
    OutOfTrees,
    ReplaySource,
    StepSize,
)
from trieline.wire.config import EnvConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.journal import Journal
from trieline.wire.messages import Assignment, TreeDelivery
from trieline.wire.tree import SCORED, TrajectoryTree

ENV = "test/One-v0"


def tree(seed: int, rewards: Collection[float] = (0.0, 1.0), cause: str = SCORED) -> TrajectoryTree:
    """A prompt of one token and rollouts of one."""
    count = len(rewards)
    return TrajectoryTree(
        env_id=ENV,
        task_id=str(seed),
        parents=np.array([-1, *[0] * count], np.int32),
        node_offsets=np.arange(count + 2, dtype=np.int32),
        sampled=np.arange(count + 1) > 0,
        rewards=np.array([0.0, *rewards], np.float32),
        fork_causes=("",) * (count + 1),
        token_ids=np.zeros(count + 1, np.int32),
        behavior_logprobs=np.zeros(count + 1, np.float32),
        entropies=np.zeros(count + 1, np.float32),
        policy_versions=np.where(np.arange(count + 1) > 0, 0, -1).astype(np.int32),
        leaf_nodes=np.arange(1, count + 1, dtype=np.int32),
        leaf_terminated=np.ones(count, np.bool_),
        leaf_causes=(cause,) * count,
        info={"broken": "no sandbox"} if cause else {},
    )


def differs(given: TrajectoryTree) -> bool:
    return bool(np.ptp(given.rewards[1:]) > 0)


def size(trees_per_step: int, most: int | None = None) -> StepSize:
    return StepSize(trees_per_step=trees_per_step, most=most or trees_per_step, teaches=differs)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[Iterable[TrajectoryTree]], Path]:
    def record(trees: Iterable[TrajectoryTree]) -> Path:
        journal = Journal(tmp_path)
        for number, given in enumerate(trees):
            journal.append(
                TreeDelivery(actor_id="a", sequence_number=number, assignment_id=number, tree=given)
            )
        journal.close()
        return tmp_path

    return record


def replayed(folder: Path, step_size: StepSize, *, start: int = 0, epochs: int = 1) -> list[list[str]]:
    source = ReplaySource(folder, step_size, start=start, stop=threading.Event(), epochs=epochs)
    steps = []
    while True:
        try:
            steps.append([t.task_id for t in source.collect(0).trees])
        except OutOfTrees:
            return steps


def test_the_last_step_of_a_recording_has_what_is_left(
    recorded: Callable[[Iterable[TrajectoryTree]], Path],
) -> None:
    folder = recorded(tree(i) for i in range(5))
    assert replayed(folder, size(2)) == [["0", "1"], ["2", "3"], ["4"]]
    assert replayed(folder, size(3), epochs=2) == [["0", "1", "2"], ["3", "4", "0"], ["1", "2", "3"], ["4"]]
    assert replayed(folder, size(5)) == [["0", "1", "2", "3", "4"]]
    assert replayed(folder, size(2), start=4) == [["4"]]
    assert replayed(folder, size(2), start=5) == []


def test_a_recording_that_ends_with_broken_trees_has_no_step_of_them(
    recorded: Callable[[Iterable[TrajectoryTree]], Path],
) -> None:
    assert replayed(recorded([tree(0), tree(1, cause="sandbox")]), size(1)) == [["0"]]


def test_a_step_is_filled_with_trees_that_teach(
    recorded: Callable[[Iterable[TrajectoryTree]], Path],
) -> None:
    equal = (1.0, 1.0)
    folder = recorded([tree(0, equal), tree(1), tree(2, equal), tree(3), tree(4), *[tree(5, equal)] * 7])
    assert replayed(folder, size(2)) == [["0", "1"], ["2", "3"], ["4", "5"], *[["5", "5"]] * 3]
    assert replayed(folder, size(2, most=5))[:2] == [["0", "1", "2", "3"], ["4", "5", "5", "5", "5"]]
    source = ReplaySource(folder, size(2, most=5), start=0, stop=threading.Event())
    step = source.collect(0)
    assert [t.task_id for t in step.idle] == ["0", "2"]
    assert [len(source.collect(0).idle) for _ in range(2)] == [4, 3], "bounded"


class Actors:
    """The receiver's place: every assignment is played at once, by the actor whose turn it is."""

    def __init__(self, play: Callable[[str, Assignment], TrajectoryTree], names: list[str]) -> None:
        self.max_losses = 3
        self.asked = 0
        self.given_up: list[Assignment] = []
        self._play = play
        self._names = names
        self._aside: set[str] = set()
        self._ready: deque[TreeDelivery] = deque()

    def offer(self, assignments: Iterable[Assignment]) -> None:
        for assignment in assignments:
            free = [name for name in self._names if name not in self._aside]
            actor = free[assignment.assignment_id % len(free)]
            self.asked += 1
            self._ready.append(
                TreeDelivery(
                    actor_id=actor,
                    sequence_number=assignment.assignment_id,
                    assignment_id=assignment.assignment_id,
                    tree=self._play(actor, assignment),
                )
            )

    def get(self, timeout_s: float) -> TreeDelivery:
        if not self._ready:
            raise PeerTimeoutError("nothing came")
        return self._ready.popleft()

    def outstanding(self) -> int:
        return len(self._ready)

    def actors(self) -> dict[str, None]:
        return dict.fromkeys(self._names)

    def set_aside(self, actor_id: str) -> None:
        self._aside.add(actor_id)

    def is_set_aside(self, actor_id: str) -> bool:
        return actor_id in self._aside

    def take_given_up(self) -> list[Assignment]:
        given_up, self.given_up = self.given_up, []
        return given_up


def live(
    actors: Actors, step_size: StepSize, *, max_staleness: int = 0, curriculum: Curriculum | None = None
) -> LiveSource:
    return LiveSource(
        actors,  # type: ignore[arg-type]
        curriculum or Curriculum([EnvConfig(id=ENV)], seed=0, group_size=2),
        Pacing(trees_per_step=step_size.trees_per_step, max_staleness=max_staleness),
        step_size,
        batch_timeout_s=0.01,
        stop=threading.Event(),
    )


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_filling_asks_for_no_more_than_may_be_under_way(max_staleness: int) -> None:
    rng = np.random.default_rng(0)
    in_steps = 0

    def play(actor: str, assignment: Assignment) -> TrajectoryTree:
        return tree(assignment.assignment_id, (1.0, float(rng.random() < 0.5)))

    actors = Actors(play, ["a"])
    source = live(actors, size(4, most=12), max_staleness=max_staleness)
    ages = []
    for step_number in range(50):
        before = actors.asked
        step = source.collect(0)
        in_steps += len(step.trees)
        assert len(step.trees) - len(step.idle) == 4 or len(step.trees) == 12
        assert actors.asked - in_steps <= 4 * max_staleness
        ages += [step_number] * (actors.asked - before)
    assert in_steps > 200


def test_an_actor_that_breaks_everything_is_given_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def play(actor: str, assignment: Assignment) -> TrajectoryTree:
        return tree(assignment.assignment_id, cause="sandbox" if actor == "bad" else SCORED)

    actors = Actors(play, ["bad", "good"])
    source = live(actors, size(2))
    with caplog.at_level(logging.ERROR):
        steps = [source.collect(0) for _ in range(60)]
    assert [len(s.trees) for s in steps] == [2] * 60
    assert sum(s.broken for s in steps) == 2 * MAX_BROKEN_RATIO + 1
    assert actors.is_set_aside("bad")
    assert not actors.is_set_aside("good")
    (said,) = [record.message for record in caplog.records]
    assert "17 trees in a row came from actor bad" in said
    assert "x test/One-v0: sandbox" in said
    assert "the last: no sandbox. It is given no more tasks" in said


def test_broken_trees_now_and_then_set_nobody_aside() -> None:
    def play(actor: str, assignment: Assignment) -> TrajectoryTree:
        return tree(assignment.assignment_id, cause="" if assignment.assignment_id % 10 == 0 else "sandbox")

    actors = Actors(play, ["a"])
    source = live(actors, size(2))
    assert sum(source.collect(0).broken for _ in range(30)) > 200
    assert not actors.is_set_aside("a")


def test_when_no_other_actor_lives_the_run_ends() -> None:
    actors = Actors(lambda actor, assignment: tree(0, cause="sandbox"), ["only"])
    with pytest.raises(TrainingError, match=r"came from actor only .*sandbox.*no sandbox\. No other actor"):
        live(actors, size(2)).collect(0)


def test_a_task_that_takes_workers_down_is_named_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    actors = Actors(lambda actor, assignment: tree(0), ["a"])
    actors.given_up = [Assignment(assignment_id=7, env_id=ENV, seed=77, level=2)]
    step = live(actors, size(2)).collect(0)
    assert [task.seed for task in step.given_up] == [77]
    assert f"{ENV}: the task of seed 77 and level 2 was held by 3 workers" in caplog.text


def test_the_turn_of_a_task_whose_tree_was_refused_is_over() -> None:
    words = [f"word {number}" for number in range(20)]
    curriculum = Curriculum([EnvConfig(id=ENV)], seed=0, group_size=2, tasks={ENV: words})
    refused: list[str | None] = []

    class Refusing(Actors):
        def offer(self, assignments: Iterable[Assignment]) -> None:
            first, *others = assignments
            refused.append(first.task_id)
            super().offer(others)

    def play(actor: str, assignment: Assignment) -> TrajectoryTree:
        return replace(tree(0), task_id=str(assignment.task_id))

    source = live(Refusing(play, ["a"]), size(3), max_staleness=1, curriculum=curriculum)
    for _ in range(4):
        step = source.collect(0)
        for came in step.taken:
            curriculum.record(ENV, 0, [0.0, 1.0], task_id=came.task_id)
    pending = curriculum.state_dict()["envs"][ENV]["tasks"]["pending"]
    assert len(refused) > 6
    assert len(pending) <= 6, "no more than may be under way"
    assert refused[0] not in pending


def test_the_wait_is_for_the_next_tree() -> None:
    actors = Actors(lambda actor, assignment: tree(0), ["a"])
    actors.offer = lambda assignments: None  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"waited 0.01 s for the next of the 2 trees of a step and got 0"):
        live(actors, size(2)).collect(0)
