"""mini-swe-agent plays in our workspace as in `trieline/SWE-v0`, by what the real one was recorded to do."""

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.envs.swe import real_agent
from tests.envs.swe.real_agent import Played, differences, env_plays, in_our_words
from trieline.envs.errors import TaskError
from trieline.envs.swe.mini_swe_agent import NOT_RUN, TrielineEnvironment
from trieline.envs.swe.observations import SUBMIT

RECORDED: list[Played] = json.loads(real_agent.RECORDED.read_text())
TASK = "larder__larder-1"
FIX = 'sed -i \'s/"tbsp": 12/"tbsp": 15/\' larder/units.py'
IS_INSTALLED = importlib.util.find_spec("minisweagent") is not None
each_recorded = pytest.mark.parametrize("played", RECORDED, ids=[played["task_id"] for played in RECORDED])


@pytest.fixture
def environment() -> Iterator[TrielineEnvironment]:
    made = TrielineEnvironment(instance_id=TASK)
    yield made
    made.close()


def run(environment: TrielineEnvironment, command: str, **more: Any) -> dict[str, Any]:
    return environment.execute({"command": command}, **more)


def test_the_recorded_agent_did_what_it_was_to_do() -> None:
    results = [(played["reward"], played["score"]["cause"]) for played in RECORDED]
    assert results == [(1.0, ""), (0.0, ""), (0.0, "empty"), (0.0, "")]
    mended, _, _, slow = RECORDED
    assert '+MILLILITRES = {"ml": 1, "tsp": 5, "tbsp": 15' in mended["patch"]
    # What it prints as its submission does not count: this one printed none, and its files did.
    assert slow["replies"][-1].count("git diff") == 0
    assert slow["patch"].startswith("diff --git a/kept b/kept\nnew file")


@each_recorded
def test_our_environment_gives_the_same_patch_score_and_observations(played: Played) -> None:
    assert differences(played, env_plays(played["task_id"], played["replies"], played["timeout"])) == []


@each_recorded
def test_our_workspace_answers_as_recorded(played: Played) -> None:
    environment = TrielineEnvironment(instance_id=played["task_id"], timeout=played["timeout"])
    *replies, _ = played["replies"]
    for reply, recorded in zip(replies, played["outputs"], strict=True):
        if recorded is not None:
            command = reply.partition("```mswea_bash_command\n")[2].removesuffix("\n```")
            assert run(environment, command) == recorded
    reward, score = environment.finish()
    assert (reward, environment.patch) == (played["reward"], played["patch"])
    assert score | {"turns": 0} == played["score"] | {"turns": 0}
    environment.close()


@pytest.mark.skipif(not IS_INSTALLED, reason="needs mini-swe-agent: pip install trieline[mini-swe-agent]")
@each_recorded
def test_the_real_agent_does_as_recorded(played: Played) -> None:
    again = real_agent.agent_plays(played["task_id"], played["replies"], played["timeout"])
    assert again == {name: played[name] for name in again}


def test_what_it_shows_differs_by_what_is_said() -> None:
    shown = "<returncode>0</returncode>\n<output>\n{0}</output>"
    for output, ours in (("a\n\n", "a\n\n"), ("a", "a\n")):
        assert in_our_words(shown.format(output), {"output": output}) == shown.format(ours)
    empty = in_our_words(shown.format(""), {"output": ""})
    assert empty == "<returncode>0</returncode>\n<output></output>"


def test_a_runner_of_many_tasks_names_each_by_its_first_command() -> None:
    environment = TrielineEnvironment()
    with pytest.raises(TaskError, match=r"expected an instance_id .* or as the first command .*'ls -la'"):
        run(environment, "ls -la")
    assert run(environment, TASK) == {"output": "", "returncode": 0, "exception_info": ""}
    assert environment.statement.startswith("A tablespoon")
    assert run(environment, "pwd")["output"] == "/testbed\n"
    assert environment.finish()[1] == {
        "resolved": False,
        "cause": "empty",
        "turns": 1,
        "patch_bytes": 0,
        "message": "the files are as they were",
    }
    with pytest.raises(TaskError, match="larder__larder-1: expected no command after the grading"):
        run(environment, "ls")


def test_its_settings_are_those_that_come_with_the_agent(environment: TrielineEnvironment) -> None:
    variables = environment.get_template_vars(task="mend it")
    assert (variables["cwd"], variables["timeout"], variables["task"]) == ("/testbed", 60.0, "mend it")
    assert {"system", "release", "version", "machine"} <= variables.keys()
    settings = {"cwd": "/testbed/larder", "env": {"X": "1 2"}, "interpreter": ["bash", "-c"], "timeout": 30}
    made = TrielineEnvironment(instance_id=TASK, **settings)
    assert run(made, 'pwd; echo "$X $PAGER"')["output"] == "/testbed/larder\n1 2 cat\n"
    assert run(made, "pwd", cwd="/tmp")["output"] == "/tmp\n"
    assert run(made, "pwd", cwd="/no/where")["returncode"] == 1
    serialized = json.loads(json.dumps(made.serialize()))["info"]
    assert serialized["config"]["environment"]["env"] == {"X": "1 2"}
    assert serialized["config"]["environment_type"].endswith("mini_swe_agent.TrielineEnvironment")
    made.close()
    with pytest.raises(TaskError, match=r"expected \['bash', '-c'\] as interpreter, got \['python'\]"):
        TrielineEnvironment(instance_id=TASK, interpreter=["python"])


def test_what_is_no_command_is_answered(environment: TrielineEnvironment) -> None:
    for command, problem in (
        ("", "Expected a command of 1 to 90,000 bytes, got 0."),
        ("a" * 100_000, "Expected a command of 1 to 90,000 bytes, got 100,000."),
        ("echo \0", "Expected Unicode text without NUL, got something else."),
    ):
        assert run(environment, command) == {"output": "", "returncode": NOT_RUN, "exception_info": problem}


def test_long_output_keeps_its_ends() -> None:
    environment = TrielineEnvironment(instance_id=TASK, output_bytes=200)
    output = run(environment, "seq 100000")["output"]
    assert output.startswith("1\n2\n3\n")
    assert output.endswith("\n99999\n100000\n")
    assert "\n[588,695 bytes are left out here]\n" in output
    environment.close()


def test_files_are_graded_that_no_submission_came_for(environment: TrielineEnvironment) -> None:
    run(environment, FIX)
    assert run(environment, f"echo {SUBMIT}; false")["returncode"] == 1
    reward, score = environment.finish()
    assert (reward, score["resolved"], score["turns"]) == (1.0, True, 2)
    assert environment.finish() == (reward, score)
    assert environment.serialize()["info"]["reward"] == 1.0
