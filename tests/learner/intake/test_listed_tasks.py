import copy
import json
import logging
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.learner.intake.listed_tasks import ListedTasks

TASKS = [f"task {number}" for number in range(12)]


def listed(
    tasks: list[str] = TASKS, *, seed: int = 0, rest_after: int = 0, rest_epochs: int = 3
) -> ListedTasks:
    return ListedTasks("me/Env-v0", tasks, seed=seed, rest_after=rest_after, rest_epochs=rest_epochs)


def epoch_of(course: ListedTasks, returns: dict[str, list[float]] | None = None) -> list[str]:
    """Play what is left of an epoch, a whole one if nothing is."""
    played, begun = [], number_after(course)
    while number_after(course) == begun:
        task = course.next_task()
        played.append(task)
        course.record(task, (returns or {}).get(task, [0.0, 1.0]), 0)
    return played


def number_after(course: ListedTasks) -> int:
    """Of the epoch that the next task belongs to."""
    ahead = copy.deepcopy(course)
    ahead.next_task()
    return number_of(ahead)


def number_of(course: ListedTasks) -> int:
    """Of the epoch that the last task belongs to, which may have been its last one."""
    return math.ceil(course.figures()["epoch"]) - 1


def test_each_task_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    course = listed()
    epochs = [epoch_of(course) for _ in range(4)]
    assert all(sorted(epoch) == sorted(TASKS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert course.figures()["epoch"] == 4
    assert epoch_of(listed(seed=1)) != epochs[0]


def test_the_order_is_the_same_on_every_machine_and_whatever_the_order_of_the_list() -> None:
    assert epoch_of(listed(TASKS[:4], seed=3)) == ["task 2", "task 0", "task 1", "task 3"]
    assert epoch_of(listed(TASKS[::-1], seed=3)) == epoch_of(listed(seed=3))


def test_success_is_kept_by_task() -> None:
    course = listed()
    course.record("task 1", [1.0, 0.0, 0.5, 0.5], 7)
    course.record("task 1", [1.0, 1.0], 9)
    course.record("task 1", [], 11)
    course.record("no such task", [1.0], 9)
    record = course.record_of("task 1")
    assert (record.attempts, record.policy_version, record.equal_groups) == (6, 9, 1)
    assert record.mean_return == pytest.approx(4 / 6)
    course.record("task 2", [0.0, 0.0], 9)
    course.record("task 3", [1.0, 0.0], 9)
    figures = course.figures()
    assert figures["seen"] == 3 / 12
    assert (figures["solve_all"], figures["solve_none"]) == (1 / 3, 1 / 3)
    assert "resting" not in figures


def test_returns_that_differ_by_rounding_alone_are_equal() -> None:
    course = listed()
    course.record("task 1", [0.3, 0.1 + 0.2, 0.3], 0)
    assert course.record_of("task 1").equal_groups == 1
    course.record("task 1", [0.3, 0.4], 0)
    assert course.record_of("task 1").equal_groups == 0
    course.record("task 1", [0.3], 0)
    assert course.record_of("task 1").equal_groups == 0, "one rollout shows no spread, and no lack of it"


def test_what_teaches_nothing_rests_and_wakes() -> None:
    course = listed(rest_after=2, rest_epochs=3)
    equal = {"task 1": [1.0, 1.0], "task 2": [0.0, 0.0]}
    assert len(epoch_of(course, equal)) == 12
    assert len(epoch_of(course, equal)) == 12
    assert course.figures()["resting"] == 2 / 12
    later = Counter(task for _ in range(6) for task in epoch_of(course, equal))
    assert later == {task: 2 if task in equal else 6 for task in TASKS}
    woken = Counter(task for _ in range(9) for task in epoch_of(course))
    assert min(woken[task] for task in equal) >= 7, "in its first turn its returns differ"
    assert course.figures()["resting"] == 0


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(2, 4))
def test_nothing_starves_and_nothing_comes_twice(data: st.DataObject, rest_after: int, every: int) -> None:
    tasks = TASKS[:5]
    course = listed(tasks, rest_after=rest_after, rest_epochs=every)
    epochs: dict[int, list[str]] = {}
    for _ in range(60):
        task = course.next_task()
        epochs.setdefault(number_of(course), []).append(task)
        course.record(task, data.draw(st.sampled_from([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])), 0)
    last = max(epochs)
    for number in range(last):
        assert len(set(epochs.get(number, []))) == len(epochs.get(number, []))
        if number + every <= last:
            assert {t for k in range(number, number + every) for t in epochs.get(k, [])} == set(tasks)


class World:
    """A learner, its journal and its checkpoints, and actors: all that a task goes through."""

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.course = listed(tasks)
        self.held: list[str] = []
        """By actors."""
        self.journal: list[str] = []
        self.taken = 0
        """Trees of the journal that steps have used."""
        self.given_up = Counter[str]()
        self.save()

    def save(self) -> None:
        state = json.dumps(self.course.state_dict())
        self.saved = (state, self.taken, self.given_up.copy())

    def ask(self) -> None:
        self.held.append(self.course.next_task())

    def come(self, which: int) -> None:
        if self.held:
            self.journal.append(self.held.pop(which % len(self.held)))

    def give_up(self, which: int) -> None:
        if self.held:
            task = self.held.pop(which % len(self.held))
            self.given_up[task] += 1
            self.course.record(task, [], 0)

    def train(self) -> None:
        if self.taken < len(self.journal):
            self.course.record(self.journal[self.taken], [0.0, 1.0], 0)
            self.taken += 1

    def crash(self, surviving: int, tasks: list[str]) -> None:
        state, self.taken, self.given_up = self.saved[0], self.saved[1], self.saved[2].copy()
        self.tasks = tasks
        self.course = listed(tasks)
        self.course.load_state_dict(json.loads(state))
        self.course.take_over(self.journal[self.taken :])
        self.held = self.held[:surviving]

    def settle(self) -> None:
        """Let everything come that is under way, and play to the end of an epoch."""
        while self.held or self.taken < len(self.journal):
            self.come(0)
            self.train()
        while self.course.state_dict()["pending"] or self.course.figures()["epoch"] % 1:
            self.ask()
            self.come(0)
            self.train()

    def turns(self) -> Counter[str]:
        """That are over, by task, those that were undone by a restart left out."""
        return Counter(self.journal[: self.taken]) + self.given_up


LISTS = [TASKS[:5], TASKS[:7], TASKS[2:6]]
ALWAYS = TASKS[2:5]
NUMBER = st.integers(0, 20)
OPERATIONS = st.lists(
    st.one_of(
        st.just(("ask",)),
        st.tuples(st.just("come"), NUMBER),
        st.tuples(st.just("give_up"), NUMBER),
        st.just(("train",)),
        st.just(("save",)),
        st.tuples(st.just("crash"), st.integers(0, 3), st.sampled_from(LISTS)),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_over_restarts_each_task_has_its_turn_once_an_epoch(operations: list[tuple[object, ...]]) -> None:
    world = World(LISTS[0])
    for name, *arguments in operations:
        getattr(world, str(name))(*arguments)
    for _ in range(3):
        world.settle()
        epochs, turns = world.course.figures()["epoch"], world.turns()
        ahead = Counter(world.course.state_dict()["ahead"])
        assert {task: turns[task] - ahead[task] for task in ALWAYS} == dict.fromkeys(ALWAYS, epochs)
        world.ask()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ask", "come", "train", "save", "crash"]), max_size=120), NUMBER)
def test_without_actors_that_survive_no_turn_is_skipped_or_doubled(names: list[str], which: int) -> None:
    world = World(TASKS[:5])
    for name in names:
        arguments = {"come": (which,), "crash": (0, TASKS[:5])}.get(name, ())
        getattr(world, name)(*arguments)
    while world.held or world.course.state_dict()["ahead"] or world.course.figures()["epoch"] % 1:
        world.ask()
        while world.held or world.taken < len(world.journal):
            world.come(0)
            world.train()
    world.settle()
    assert len({world.turns()[task] for task in TASKS[:5]}) == 1


def test_a_resumed_run_goes_on_with_the_next_task() -> None:
    straight, stopped = listed(), listed()
    first = [straight.next_task() for _ in range(8)]
    assert [stopped.next_task() for _ in range(8)] == first
    for task in first[:5]:
        stopped.record(task, [0.0, 1.0], 1)
    resumed = listed()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    resumed.take_over([first[6]])
    assert [resumed.next_task() for _ in range(2)] == [first[5], first[7]], "what was under way comes again"
    rest = [straight.next_task() for _ in range(10)]
    assert [resumed.next_task() for _ in range(10)] == rest
    assert resumed.record_of(first[0]).policy_version == 1


def test_a_tree_of_an_earlier_start_comes_after_all() -> None:
    stopped = listed()
    task = stopped.next_task()
    resumed = listed()
    resumed.load_state_dict(stopped.state_dict())
    resumed.take_over([])
    resumed.record(task, [0.0, 1.0], 0)
    assert task not in epoch_of(resumed), "it is not asked for again"
    assert task in epoch_of(resumed)


def test_turns_whose_trees_were_refused_are_over() -> None:
    course = listed()
    first = [course.next_task() for _ in range(3)]
    course.expect_at_most(2)
    assert course.state_dict()["pending"] == first[1:]
    resumed = listed()
    resumed.load_state_dict(course.state_dict())
    resumed.take_over([])
    resumed.expect_at_most(0)
    assert resumed.state_dict()["pending"] == first[1:], "they wait to be handed out again"


def test_a_changed_list_is_said(caplog: pytest.LogCaptureFixture) -> None:
    stopped = listed()
    played = [stopped.next_task() for _ in range(6)]
    for task in played:
        stopped.record(task, [0.0, 1.0], 0)
    changed = [task for task in TASKS if task != played[0]] + ["new"]
    resumed = listed(changed)
    with caplog.at_level(logging.WARNING):
        resumed.load_state_dict(stopped.state_dict())
    assert "me/Env-v0: its list of tasks is not that of the checkpoint: 12 tasks then, 12 now" in caplog.text
    assert f"of those played 1: {played[0]!r}" in caplog.text
    rest = epoch_of(resumed)
    assert set(TASKS) - set(played) <= set(rest)
    assert set(rest).isdisjoint(played)
    assert sorted(epoch_of(resumed)) == sorted(changed)
    caplog.clear()
    listed(changed[::-1]).load_state_dict(resumed.state_dict())
    assert caplog.text == ""


def test_a_list_of_the_largest_size() -> None:
    tasks = [f"{number:0200d}" for number in range(100_000)]
    course = listed(tasks)
    assert len({course.next_task() for _ in range(1_000)}) == 1_000
