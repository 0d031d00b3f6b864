import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from trieline.envs.errors import EnvError, TaskError
from trieline.envs.helper_process import NoReply
from trieline.envs.reasoning import reasoning_env
from trieline.envs.reasoning.guards import LEFT_OUT, may_be_scored
from trieline.envs.reasoning.reasoning_env import LEVELS, ReasoningEnv, read_answer, task_names

JUNK = ("", "0", "1", "I don't know", "yes", "True", "[]", "()", "nan", "inf", "None", "x", "[[]]", "0 0")
A_FEW = ("chain_sum", "countdown", "game_of_life_halting", "complex_arithmetic", "n_queens", "gcd")
WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
MAY_BE_ZERO = {"polynomial_equations", "time_intervals"}
"""Their scorers read `0` as numbers that are right now and then."""


@pytest.fixture(scope="module")
def env() -> Iterator[ReasoningEnv]:
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.fail("reasoning-gym is of the extra `test`")
    yield ReasoningEnv()
    reasoning_env.ReasoningPool.shared().close()


def reward_of(env: ReasoningEnv, task_id: str, reply: str) -> float:
    env.reset(options={"task_id": task_id})
    _, reward, terminated, _, _ = env.step(reply)
    assert terminated
    return float(reward)


def _expect_sound(env: ReasoningEnv, task: str, level: int) -> None:
    env.reset(seed=level, options={"task": task, "level": level})
    task_id, gold = env.task_id(env.task), env.solution()
    assert (gold is None) == (task in WITHOUT_GOLD), task
    assert env.parse_task(task_id) == env.task
    if gold is not None:
        assert reward_of(env, task_id, gold) == 1.0, task_id
    said = [env.task.answer, *(("0", "1", "0 0") if task in MAY_BE_ZERO else ())]
    for junk in JUNK:
        if junk not in said:
            assert reward_of(env, task_id, junk) == 0.0, (task_id, junk)


@pytest.mark.parametrize("task", A_FEW)
def test_gold_is_right_and_junk_is_not(env: ReasoningEnv, task: str) -> None:
    _expect_sound(env, task, 0)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_task_can_be_played(env: ReasoningEnv) -> None:
    assert len(task_names()) >= 100
    unsound = []
    for task in task_names():
        for level in (0, LEVELS // 2):
            try:
                _expect_sound(env, task, level)
            except (AssertionError, TaskError) as error:
                unsound.append(f"{task} {level}: {str(error)[:200]}")
    assert unsound == []


def test_one_task_can_be_asked_for(env: ReasoningEnv) -> None:
    _, info = env.reset(seed=3, options={"task": "chain_sum", "level": 1})
    assert info["task_id"].startswith("chain_sum/1/")
    only = ReasoningEnv(tasks=["chain_sum", "gcd"])
    assert {only.reset(seed=seed)[1]["task_id"].split("/")[0] for seed in range(12)} == {"chain_sum", "gcd"}


def test_what_is_left_out_says_why(env: ReasoningEnv) -> None:
    for task, why in LEFT_OUT.items():
        with pytest.raises(TaskError, match=f"got '{task}': {why}"):
            env.reset(seed=0, options={"task": task})
    with pytest.raises(TaskError, match="there are ab, "):
        ReasoningEnv(tasks=["sudoku9"])
    with pytest.raises(TaskError, match="expected 'task/level/seed'"):
        env.reset(options={"task_id": "chain_sum/9/1"})


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    task_names.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvError, match=r"pip install 'trieline\[reasoning\]'"):
        ReasoningEnv()
    task_names.cache_clear()


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("simple_integration", "[0 for x in [eval]]"),
        ("simple_integration", "x.y"),
        ("polynomial_multiplication", "'x'"),
        ("countdown", "9**9**9"),
        ("countdown", "__import__('os')"),
        ("puzzle24", "exec('1')"),
        ("puzzle24", "1e99999"),
        ("simple_integration", "__import__('os').system('id')"),
        ("simple_integration", "x.__class__"),
        ("simple_integration", "open('f')"),
        ("polynomial_multiplication", "lambda: 0"),
        ("intermediate_integration", "eval('1')"),
        ("chain_sum", "9" * 30_000),
    ],
)
def test_no_answer_is_run_as_code(task: str, answer: str) -> None:
    assert not may_be_scored(task, answer)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("n_queens", "Q _ _\n_ _ Q\n_ Q _"),
        ("number_sorting", "['-31.0', '2.5']"),
        ("string_insertion", "ABCDE"),
        ("countdown", "(37 - 5) * 2 + 100/4"),
        ("simple_integration", "2*x**3/3 - 7*x + C"),
        ("intermediate_integration", "-exp(2*x)*cos(3*x)/13 + log(x) + C"),
        ("polynomial_multiplication", "35*x**2*y - 4.5*z + 2x"),
        ("complex_arithmetic", "-3.0 + 2.5i"),
        ("game_of_life_halting", " False "),
    ],
)
def test_honest_answers_are_scored(task: str, answer: str) -> None:
    assert may_be_scored(task, answer)


@pytest.mark.parametrize("task", ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens"])
def test_scorers_evaluate_nothing(task: str, tmp_path: Path) -> None:
    """In one worker, so that what an answer changed would still be there for the next."""
    marker = tmp_path / "ran"
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    with reasoning_env.ReasoningPool(size=1) as pool:
        for answer in (
            touch,
            f"[{touch}]",
            "[0 for ProceduralDataset.score_answer in [eval]]",
            "[0 for StringInsertionDataset.score_answer in [eval]]",
            "oracle_answer",
            "[entry['answer']]",
            "entry['metadata']['solution']",
            "entry['metadata']['valid_answers']",
            "[[" * 3000,
        ):
            assert pool.ask(["score", task, 0, 5, answer]) == "0.0", answer
        assert pool.ask(["score", "caesar_cipher", 0, 5, "1.0"]) == "0.0"
        assert pool.ask(["score", "caesar_cipher", 0, 6, f"[{touch},1.0][1]"]) == "0.0"
    assert not marker.exists()


def test_an_answer_that_a_scorer_hangs_on_is_wrong(
    env: ReasoningEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(self: object, request: list[object]) -> str:
        raise NoReply("timeout")

    env.reset(seed=0, options={"task": "chain_sum"})
    monkeypatch.setattr(reasoning_env.ReasoningPool, "ask", hangs)
    _, reward, _, _, info = env.step("5")
    assert (reward, info["score"]["reason"]) == (0.0, "timeout")


def test_the_answer_is_what_stands_in_the_last_tags() -> None:
    assert read_answer("<answer>1</answer> no: <answer>\n2</answer>") == "\n2"
    assert read_answer("  12 ") == "12"
    assert read_answer("so <answer>3") == "3"
