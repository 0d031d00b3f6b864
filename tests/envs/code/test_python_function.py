"""Functions are graded in a sandbox, and no trick earns the reward that the right function earns."""

import ast
from typing import Any, NoReturn

import pytest

from tests.envs.code.near_misses import EQUIVALENT, SLIPS, near_misses
from trieline.envs import make_env
from trieline.envs.code import python_function
from trieline.envs.code.hidden_tests import Case, judge, make_case, same
from trieline.envs.code.templates import LEVELS, TEMPLATES
from trieline.envs.errors import SandboxError, TaskError
from trieline.envs.sandbox import ExecResult, SandboxLimits

ENV = "trieline/PythonFunction-v0"

FORGERIES = {
    "prints results": """
def f(x):
    print('["value", 4]')
    return None
""",
    "writes results to every descriptor": """
import os
def f(x):
    for fd in range(1, 20):
        try:
            os.write(fd, b'["value", 4]\\n' * 8)
        except OSError:
            pass
    os._exit(0)
""",
    "writes too much": """
import os
def f(x):
    for fd in range(3, 9):
        try:
            os.write(fd, b'a' * 10**6)
        except OSError:
            pass
""",
    "exits": "import sys\ndef f(x): sys.exit(0)",
    "exits at once": "def f(x, y=__import__('os')._exit(0)): return x + 3",
    "patches json": """
import json
def f(x):
    json.dumps = lambda *a, **k: '["value", true]'
""",
    "patches the comparison": """
def f(x):
    class T(int):
        __eq__ = lambda s, o: True
        __hash__ = int.__hash__
    return T(0)
""",
    "equals everything": """
def f(x):
    class T:
        __eq__ = lambda s, o: True
    return T()
""",
    "patches builtins": """
import builtins
def f(x):
    builtins.type, builtins.len = (lambda v: int), (lambda v: 0)
    return 'a'
""",
    "looks for expected values": """
import sys
def f(x):
    frame = sys._getframe(1)
    names = {**frame.f_globals, **frame.f_locals}
    return names.get('expected') or names['request'].get('expected') or names['gold']
""",
    "returns too much": "def f(x): return list(range(10**6))",
    "nests too deeply": """
def f(x):
    value = []
    for _ in range(10**5):
        value = [value]
    return value
""",
    "takes all memory": "def f(x): return [0] * 10**10",
    "forks": "import os\ndef f(x):\n    while True: os.fork()",
    "raises out of the hierarchy": "def f(x): raise BaseException('x')",
    "recurses": "def f(x): return f(x)",
    "kills the runner": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def env() -> Any:
    env = make_env(ENV)
    env.reset(options={"task_id": "plus_constant:k=3"})
    return env


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_earn_nothing(env: Any, name: str) -> None:
    _, reward, terminated, _, info = env.step(FORGERIES[name])
    assert (reward, terminated) == (0.0, True)
    assert info["score"]["passed"] < info["score"]["total"]
    assert info["score"]["error"]


def test_a_loop_ends_at_the_wall(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SandboxLimits(wall_seconds=0.5)
    monkeypatch.setattr(python_function, "LIMITS", limits)
    assert env.step("def f(x):\n    while True: pass")[4]["score"]["error"] == "timeout"


def test_a_right_function_may_print(env: Any) -> None:
    assert env.step("def f(x):\n    print('x' * 100000)\n    return x + 3")[1] == 1.0


def test_half_right_is_not_right(env: Any) -> None:
    _, reward, _, _, info = env.step("def f(x): return x + 3 if x > 0 else None")
    score = info["score"]
    assert reward == 0.0
    assert 0 < score["passed"] < score["total"]
    assert score["error"] == "wrong"


@pytest.mark.parametrize("reply", ["\ud800", "def f(x): return '\ud800'", "\x00", "def f(x): return '\x00'"])
def test_score_can_be_written_down(env: Any, reply: str) -> None:
    env.step(reply)[4]["score"]["source"].encode()


def test_a_failing_sandbox_is_not_a_failing_program(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenPool:
        def lend(self) -> NoReturn:
            raise SandboxError("gone")

    monkeypatch.setattr(python_function, "shared_pool", lambda *_: BrokenPool())
    with pytest.raises(SandboxError, match="gone"):
        env.step("def f(x): return x + 3")


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_has_telling_cases(name: str) -> None:
    for seed in range(5):
        env = python_function.PythonFunction(level=TEMPLATES[name].level)
        env.reset(seed=seed)
        task = _any_task(name, seed)
        task_id = env.task_id(task)
        assert env.task_id(env.parse_task(task_id)) == task_id
        cases = python_function.cases_of(task, task_id)
        assert cases == python_function.cases_of(task, task_id)
        assert len({str(case.expected) for case in cases}) > 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_near_misses_fail_and_the_solution_passes(name: str) -> None:
    for task in python_function.PythonFunction().all_tasks():
        if task.template.name != name:
            continue
        constants = dict(task.constants)
        cases = python_function.cases_of(task, python_function.PythonFunction().task_id(task))
        assert _passes(task.gold, task, cases)
        slips = [slip.format_map(constants) for slip in SLIPS.get(name, ())]
        passing = {miss for miss in (*near_misses(task.gold), *slips) if _passes(miss, task, cases)}
        equivalent = EQUIVALENT.get(name, "").format_map(constants)
        assert passing == ({ast.unparse(ast.parse(equivalent))} if equivalent else set())


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_has_near_misses(name: str) -> None:
    task = _any_task(name, 0)
    misses = {*near_misses(task.gold), *SLIPS.get(name, ())}
    assert len(misses) >= 2
    assert task.gold not in misses


def _passes(source: str, task: python_function.FunctionTask, cases: tuple[Case, ...]) -> bool:
    """As the sandbox would run it: expressions of this file, and no others."""
    try:
        function = eval(f"lambda {task.params}: {source}")
        values = [make_case(case.arguments, function(*case.arguments)).expected for case in cases]
    except Exception:  # noqa: BLE001  # a near miss may raise whatever it likes
        return False
    return all(same(case.expected, value) for case, value in zip(cases, values, strict=True))


def test_solutions_pass_in_the_sandbox() -> None:
    for name in TEMPLATES:
        env = make_env(ENV)
        env.reset(
            options={"task_id": (task_id := python_function.PythonFunction().task_id(_any_task(name, 1)))}
        )
        solution = env.unwrapped.solution()  # type: ignore[attr-defined]
        assert env.step(solution)[1] == 1.0, task_id


def test_edges_come_first() -> None:
    env = python_function.PythonFunction()
    cases = python_function.cases_of(env.parse_task("greater_than:k=7"), "greater_than:k=7")
    assert [case.arguments for case in cases[:4]] == [(6,), (7,), (8,), (0,)]
    cases = python_function.cases_of(env.parse_task("longer_than:k=4"), "longer_than:k=4")
    assert [len(case.arguments[0]) for case in cases[:3]] == [3, 4, 5]


def test_all_tasks_are_listed_once_and_by_level() -> None:
    env = python_function.PythonFunction()
    train, test = env.task_ids("train"), env.task_ids("test")
    assert len({*train, *test}) == len(train) + len(test) == len([*env.all_tasks()])
    levels = [env.parse_task(task_id).template.level for task_id in train]
    assert levels == sorted(levels)
    assert "plus_constant:k=3" in train
    assert "cube" in test


def _any_task(name: str, seed: int) -> python_function.FunctionTask:
    template = TEMPLATES[name]
    constants = tuple((key, choices[seed % len(choices)]) for key, choices in template.constants.items())
    return python_function.FunctionTask(template=template, constants=constants)


def test_templates_of_each_level_are_held_out() -> None:
    assert len(TEMPLATES) >= 60
    for level in range(LEVELS):
        rows = [row for row in TEMPLATES.values() if row.level == level]
        assert sum(row.held_out for row in rows) >= 5
        assert sum(not row.held_out for row in rows) >= 10


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "nothing",
        "plus_constant",
        "plus_constant:k=99",
        "plus_constant:j=3",
        "square:k=3",
        "plus_constant:k",
        5,
    ],
)
def test_unknown_tasks_are_refused(task_id: Any) -> None:
    with pytest.raises(TaskError):
        make_env(ENV).reset(options={"task_id": task_id})


def test_equality_is_by_value_but_knows_booleans() -> None:
    assert same(3, 3.0)
    assert same(0.1 + 0.2, 0.3)
    assert not same(True, 1)
    assert not same(1, True)
    assert not same(["list", 1], ["tuple", 1])
    assert not same(None, "None")
    assert not same(1.5, 10**400)
    assert not same(1.0, float("nan"))


@pytest.mark.parametrize(
    "stdout",
    [
        b"",
        b"[",
        b"[" * 50_000,
        b'["value"]',
        b'["value", 1, 2]',
        b"{}",
        b'"ab"',
        b"\xff",
        b"1" * 10_000,
        b'["error", 5]',
    ],
)
def test_garbage_from_the_sandbox_is_a_failed_test(stdout: bytes) -> None:
    report = judge((make_case((1,), 4),), ExecResult(exit_code=0, stdout=stdout + b"\n", stderr=b""))
    assert report.passed == 0
    assert report.error
