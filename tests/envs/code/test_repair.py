"""Functions with one wrong line: what a reply puts into them, and that only mending them earns the reward."""

import itertools
from typing import Any

import pytest

from trieline.envs import make_env
from trieline.envs.code import repair
from trieline.envs.code.repair import LEVELS, PROGRAMS, Broken, Repair, mended
from trieline.envs.errors import TaskError

ENV = "trieline/Repair-v0"
LINE = "def f(xs):\n    return xs[1]"
LOOP = """def f(xs):
    best = xs[0]
    for x in xs:
        if x < best:
            best = x
    return best"""
FILE = "def half(x):\n    return x // 3\n\ndef f(xs):\n    return [half(x) for x in xs]"


@pytest.fixture
def env() -> Any:
    env = make_env(ENV, attempts=2)
    env.reset(options={"task_id": _a_task("first_element")})
    return env


@pytest.mark.parametrize(
    ("reply", "wrong", "right"),
    [
        ("return xs[0]", LINE, LINE.replace("1", "0")),
        ("    return xs[0]\n", LINE, LINE.replace("1", "0")),
        ("`return xs[0]`", LINE, LINE.replace("1", "0")),
        ("The line should be:\nreturn xs[0]\nas lists begin at 0.", LINE, LINE.replace("1", "0")),
        ("```python\nreturn xs[0]\n```", LINE, LINE.replace("1", "0")),
        ("return xs[1]\nreturn xs[0]", LINE, LINE.replace("1", "0")),
        ("def f(xs):\n    return xs[0]", LINE, LINE.replace("1", "0")),
        ("def f(xs): return xs[0]", LINE, "def f(xs): return xs[0]"),
        ("Sure!\n\ndef first(xs):\n    return xs[0]\n\nThat's it.", LINE, "def first(xs):\n    return xs[0]"),
        ("if x > best:", LOOP, LOOP.replace("<", ">")),
        ("        if x > best:\n            best = x", LOOP, LOOP.replace("<", ">")),
        ("return x // 2", FILE, FILE.replace("3", "2")),
        ("def half(x):\n    return x // 2", FILE, FILE.replace("3", "2")),
        (FILE.replace("3", "2"), FILE, FILE.replace("3", "2")),
        # Nothing that could be a line of it.
        ("", LINE, LINE),
        ("\n \n```\n```", LINE, LINE),
        ("return xs[1]", LINE, LINE),
        ("No idea.", LINE, LINE),
        ("\x00\ud800", LINE, LINE),
    ],
)
def test_what_a_reply_puts_into_the_file(reply: str, wrong: str, right: str) -> None:
    assert mended(reply, wrong) == right


def test_a_reply_without_end_is_read_in_part() -> None:
    assert mended("return xs[0]\n" + "return xs[2]\n" * 10**6, LINE) == LINE.replace("1", "0")
    assert mended("x" * 10**7, LINE) == LINE


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_fault_that_is_asked_for_is_wrong_and_its_solution_mends_it(name: str) -> None:
    faults = [task for task in _faults(name) if repair._failing(task)]
    assert faults
    env = Repair()
    for task in faults:
        task_id = env.task_id(task)
        assert env.parse_task(task_id) == task
        env.reset(options={"task_id": task_id})
        assert mended(env.solution(), task.wrong) == task.right
        changed = [a != b for a, b in zip(task.wrong.split("\n"), task.right.split("\n"), strict=True)]
        assert sum(changed) == 1


@pytest.mark.parametrize("level", range(Repair.levels))
def test_levels_have_tasks_of_both_splits_and_solutions_pass(level: int) -> None:
    assert sum(row.held_out for row in LEVELS[level]) >= 5
    assert sum(not row.held_out for row in LEVELS[level]) >= 6
    for split in ("train", "test"):
        env = make_env(ENV, level=level, split=split)
        for seed in range(3):
            env.reset(seed=seed)
            broken = env.unwrapped.task  # type: ignore[attr-defined]
            assert broken.program.held_out == (split == "test")
            assert env.step(env.unwrapped.solution())[1:4] == (1.0, True, False)  # type: ignore[attr-defined]


def test_the_first_message_shows_code_and_a_call_that_goes_wrong(env: Any) -> None:
    observation, _ = env.reset(options={"task_id": _a_task("first_element")})
    assert observation == (
        "def f(xs):\n    return xs[1]\n\nThis should return the first element of xs, but f([0]) raises "
        "IndexError, not 0. Reply with the corrected line only."
    )


def test_a_second_attempt_is_told_what_is_not_right_yet(env: Any) -> None:
    observation, reward, terminated, truncated, info = env.step("return xs[2]")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation == "f([0]) is not 0 yet. Reply with the corrected line only."
    assert "score" not in info
    _, reward, terminated, _, info = env.step("return xs[0]")
    assert (reward, terminated) == (1.0, True)
    assert info["score"]["attempts"] == 2
    assert info["score"]["passed"] == info["score"]["total"]


def test_attempts_run_out(env: Any) -> None:
    env.step("return xs[1]")
    observation, reward, terminated, _, info = env.step("return max(xs)")
    assert (reward, terminated) == (0.0, True)
    assert 0 < info["score"]["passed"] < info["score"]["total"]
    assert observation == f"{info['score']['passed']} of {info['score']['total']} tests passed."


@pytest.mark.parametrize(
    "reply",
    [
        "def f(xs):\n    class T:\n        __eq__ = lambda s, o: True\n    return T()",
        "def f(xs, y=__import__('os')._exit(0)): return xs[0]",
        "def f(xs):\n    print('[\"value\", 0]')",
        "return xs[0] if xs == [0] else None",
    ],
)
def test_what_does_not_mend_it_earns_nothing(reply: str) -> None:
    env = make_env(ENV, attempts=1)
    env.reset(options={"task_id": _a_task("first_element")})
    _, reward, terminated, _, info = env.step(reply)
    assert (reward, terminated) == (0.0, True)
    assert info["score"]["error"]


def test_forks_go_their_own_ways(env: Any) -> None:
    env.step("return xs[2]")
    fork = env.unwrapped.fork()
    assert env.step("return xs[0]")[1] == 1.0
    assert fork.step("return xs[3]")[1:3] == (0.0, True)


@pytest.mark.parametrize(
    "task_id",
    ["", "first_element", "first_element:", "first_element:/", "first_element:/999", "none:/0",
     "plus_constant:/0", "plus_constant:k=0/0", "plus_constant:k=3,m=1/0", "sum_of_two:/2", "x" * 10**6],
)  # fmt: skip
def test_no_such_task(task_id: str) -> None:
    with pytest.raises(TaskError, match="Repair has no task"):
        Repair().reset(options={"task_id": task_id})


@pytest.mark.parametrize("attempts", [0, -1, 101])
def test_attempts_are_bounded(attempts: int) -> None:
    with pytest.raises(TaskError, match=r"expected attempts in 1\.\.100"):
        Repair(attempts=attempts)


def _faults(name: str) -> list[Broken]:
    program = PROGRAMS[name]
    constants = tuple((key, choices[len(choices) // 2]) for key, choices in program.constants.items())
    number = len(repair._versions(program.source.format_map(dict(constants))))
    return [Broken(program=program, constants=constants, fault=fault) for fault in range(number)]


def _a_task(name: str) -> str:
    wrong = (task for task in _faults(name) if repair._failing(task))
    return Repair().task_id(next(itertools.islice(wrong, 1)))
