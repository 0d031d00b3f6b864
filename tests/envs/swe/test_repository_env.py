"""Episodes in a shell, from the first command to the grade; whatever the agent does is its own result."""

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from trieline.envs import make_env
from trieline.envs.errors import DataError, EnvError, SandboxError, TaskError
from trieline.envs.sandbox import Places
from trieline.envs.swe.gold import CHUNK, gold_commands
from trieline.envs.swe.hand_in import HandIn, take_hand_in
from trieline.envs.swe.observations import MOST_STATEMENT, SUBMIT
from trieline.envs.swe.replies import Misunderstood, read_reply, written
from trieline.envs.swe.repository_env import RepositoryEnv
from trieline.envs.swe.repository_task import row_of, task_of
from trieline.envs.swe.sample import sample_checkouts, sample_tasks
from trieline.envs.swe.task_set import fix_size, repository_set

ENV = "trieline/SWE-v0"
TASK = "larder__larder-1"
TWO_TESTS = "larder__larder-4"
FIX = 'sed -i \'s/"tbsp": 12/"tbsp": 15/\' larder/units.py'
DONE = written(f"echo {SUBMIT}")


@pytest.fixture
def env() -> Iterator[RepositoryEnv]:
    """On the first task, which takes one line."""
    made = made_with()
    yield made
    made.close()


def made_with(task_id: str = TASK, **settings: Any) -> RepositoryEnv:
    env: Any = make_env(ENV, **settings).unwrapped
    env.reset(seed=0, options={"task_id": task_id})
    return env  # type: ignore[no-any-return]


def say(env: RepositoryEnv, command: str) -> str:
    observation, reward, terminated, truncated, _ = env.step(written(command))
    assert (reward, terminated, truncated) == (0.0, False, False), observation
    return observation


def end(env: RepositoryEnv, reply: str = DONE) -> tuple[float, dict[str, Any]]:
    """Reward and score."""
    _, reward, terminated, truncated, info = env.step(reply)
    assert (terminated, truncated, info["task_id"]) == (True, False, env.task.instance_id)
    return reward, info["score"]


def programs() -> set[str]:
    """The sandboxes of this process."""
    # By their parent: what a task lists as its children is not all of them while threads come and go.
    return {str(child.pid) for child in psutil.Process().children() if "bwrap" in _name(str(child.pid))}


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# ---- tasks


def test_the_sample_is_rows_of_the_schema() -> None:
    for task in sample_tasks():
        assert task_of(json.loads(json.dumps(row_of(task)))) == task


def test_the_sample_is_split_by_id() -> None:
    env: Any = make_env(ENV).unwrapped
    assert env.task_ids("train") == (TASK, "larder__larder-3", TWO_TESTS)
    assert env.task_ids("test") == ("larder__larder-2",)
    assert make_env(ENV, split="test").reset(seed=5)[1]["task_id"] == "larder__larder-2"
    with pytest.raises(TaskError, match=r"expected one of 4 ids such as 'larder__larder-1'"):
        env.reset(options={"task_id": "larder__larder-7"})


def test_a_task_is_shown_and_how_to_act() -> None:
    env: Any = make_env(ENV, edits=True, steps=7, command_seconds=2.5).unwrapped
    observation, _ = env.reset(options={"task_id": TASK})
    for part in (
        "`convert(1, 'tbsp', 'tsp')` gives 2.4",
        "/testbed",
        SUBMIT,
        "2.5 s",
        "7 replies",
        "```edit",
    ):
        assert part in observation
    assert "```edit" not in make_env(ENV).reset(options={"task_id": TASK})[0]


def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    task = replace(
        sample_tasks()[0], problem_statement="x" * (MOST_STATEMENT + 5), instance_id="other__other-1"
    )
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row_of(task))}\n")
    env: Any = make_env(ENV, data=str(path), checkouts=str(tmp_path), test_share=0.0).unwrapped
    with pytest.raises(
        TaskError, match=r"other__other-1: expected a folder other__other-1 in .*, found none"
    ):
        env.reset(seed=0)
    (tmp_path / "other__other-1").mkdir()
    observation, info = env.reset(seed=0)
    assert info["task_id"] == "other__other-1"
    assert "x\n(5 more characters are left out)" in observation
    assert env.observation_space.contains(observation)
    with pytest.raises(TaskError, match="expected test tasks of level 0, got none among 1 tasks"):
        make_env(ENV, data=str(path), checkouts=str(tmp_path), test_share=0.0, split="test").reset()
    classic = row_of(task)
    del classic["eval_script"]
    (tmp_path / "classic.json").write_text(json.dumps([classic]))
    with pytest.raises(TaskError, match="expected a row with eval_script"):
        make_env(ENV, data=str(tmp_path / "classic.json"), checkouts=str(tmp_path), test_share=0).reset()


def test_a_folder_with_both_splits_says_which_tasks_are_held_out(tmp_path: Path) -> None:
    rows = [json.dumps(row_of(task)) for task in sample_tasks()]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:2]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[2:]))
    env: Any = make_env(ENV, data=str(tmp_path), checkouts=str(tmp_path)).unwrapped
    assert env.task_ids("train") == (TASK, "larder__larder-2")
    assert env.task_ids("test") == ("larder__larder-3", TWO_TESTS)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "test.jsonl").write_text(rows[0])
    (tmp_path / "again" / "train.jsonl").write_text(rows[0])
    with pytest.raises(DataError, match=r"expected no task in both splits, got \['larder__larder-1'\]"):
        make_env(ENV, data=str(tmp_path / "again"), checkouts=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "/nowhere/rows.jsonl"}, "expected rows in /nowhere/rows.jsonl: .*No such file"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"command_seconds": float("nan")}, "expected command_seconds of at least 0.1, got nan"),
        ({"output_bytes": 10}, "expected output_bytes of at least 200, got 10"),
        ({"test_share": 2}, "expected a test_share of 0 to 1, got 2"),
        (
            {"backend": "docker"},
            "expected backend auto or bubblewrap for the tasks of the sample, got 'docker'",
        ),
        ({"level": 1}, r"expected a level of RepositoryEnv in 0\.\.0, got 1"),
        ({"split": "dev"}, "expected split to be one of"),
    ],
)
def test_what_can_not_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        make_env(ENV, **settings)


def test_levels_are_parts_by_the_size_of_the_fix() -> None:
    tasks = [
        replace(
            sample_tasks()[0], instance_id=f"t-{n}", patch="--- a/x\n+++ b/x\n" + "+x\n" * (n % 4) + "-y\n"
        )
        for n in range(8)
    ]
    assert [fix_size(task) for task in tasks] == [1, 2, 3, 4, 1, 2, 3, 4]
    parts = repository_set(tasks, []).by_level
    assert [[task.instance_id for task in part] for part in parts["train"]] == [
        ["t-0", "t-4"],
        ["t-1", "t-5", "t-2"],
        ["t-6", "t-3", "t-7"],
    ]
    assert parts["test"] == ((), (), ())
    two = repository_set(tasks, ["t-3", "t-4"])
    assert two.levels == 2
    assert [[task.instance_id for task in part] for part in two.by_level["test"]] == [["t-4"], ["t-3"]]


# ---- episodes


def test_the_gold_patch_resolves_in_one_reply_and_in_several(env: RepositoryEnv) -> None:
    solution = env.solution()
    assert solution is not None
    reward, score = end(env, solution)
    assert (reward, score["resolved"], score["cause"], score["fail_to_pass"]) == (1.0, True, "", "1 of 1")
    env.reset(options={"task_id": TWO_TESTS})
    *before, last = env.demonstrate()
    for reply in before:
        assert env.step(reply)[:3] == ("<returncode>0</returncode>\n<output></output>", 0.0, False)
    assert end(env, last)[0] == 1.0


def test_a_gold_patch_that_is_long_takes_several_commands() -> None:
    new = "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1,{n} @@\n"
    for lines, commands in ((10, 1), (CHUNK // 10, 3)):
        task = replace(sample_tasks()[0], patch=new.format(n=lines) + "+0123 ```\n" * lines)
        found = gold_commands(task, then="echo done")
        assert len(found) == commands
        assert all(not isinstance(read_reply(written(line), edits=False), Misunderstood) for line in found)


def test_commands_are_answered_and_replies_that_are_none_too(env: RepositoryEnv) -> None:
    assert not env._workspace.is_open
    assert env.step("I would look around.")[0] == "Expected one block of ```bash, found none."
    assert not env._workspace.is_open
    assert say(env, "pwd; echo $PAGER") == "<returncode>0</returncode>\n<output>\n/testbed\ncat\n</output>"
    said = say(env, "echo out; echo err >&2; cd larder; X=1; exit 3")
    assert said == "<returncode>3</returncode>\n<output>\nout\nerr\n</output>"
    assert say(env, "pwd; echo $X; false") == "<returncode>1</returncode>\n<output>\n/testbed\n\n</output>"
    assert "unexpected end of file" in say(env, "if true; then")
    assert say(env, f"echo {SUBMIT}; false").startswith("<returncode>1</returncode>")
    assert say(env, f"echo so; echo {SUBMIT}").startswith("<returncode>0</returncode>")
    assert "\ufffd" in say(env, "printf '\\377\\0x'")
    # The fix and the new tests are a later commit of the repository itself.
    assert say(env, "git log --all --oneline | wc -l; git status --short; grep -r spoons . | wc -l") == (
        "<returncode>0</returncode>\n<output>\n1\n0\n</output>"
    )
    reward, score = end(env)
    assert (reward, score["cause"], score["patch_bytes"]) == (0.0, "empty", 0)


def test_long_output_is_its_head_and_its_tail() -> None:
    env = made_with(output_bytes=200)
    said = say(env, "seq 100000; echo end")
    assert said.startswith("<returncode>0</returncode>\n<output_head>\n1\n2\n3\n")
    assert (
        "</output_head>\n<left_out>588,699 bytes; print less, or to a file</left_out>\n<output_tail>\n"
        in said
    )
    assert said.endswith("\n100000\nend\n</output_tail>")
    assert len(say(env, "yes | head -c 50000000")) < 500
    env.close()


def test_what_takes_too_long_or_too_much_is_ended_and_the_episode_goes_on() -> None:
    env = made_with(command_seconds=1.5)
    said = say(env, "echo 1 > kept; (sleep 86311; echo 2 > kept) & sleep 86311")
    assert said == (
        "<returncode>137</returncode>\n"
        "<note>It took longer than 1.5 s and was ended.</note>\n<output></output>"
    )
    say(env, "bomb() { bomb | bomb & }; bomb; sleep 86311")
    assert "MemoryError" in say(env, "python3 -c 'x = bytearray(8 << 30)'")
    assert say(env, "cat kept; pgrep -c sleep").startswith("<returncode>1</returncode>\n<output>\n1\n0\n")
    say(env, FIX)
    assert end(env)[0] == 1.0
    env.close()


def test_an_edit_replaces_a_text() -> None:
    env = made_with(edits=True)
    edit = "```edit\nlarder/units.py\n<<<<<<< SEARCH\n{0}\n=======\n{1}\n>>>>>>> REPLACE\n```"
    assert "found it nowhere" in env.step(edit.format('"tbsp": 13', ""))[0]
    outside = edit.replace("larder/units.py", "../etc/x").format("a", "b")
    assert env.step(outside)[0] == "../etc/x: '..' is not allowed. Nothing was changed."
    said = env.step(edit.format('"tbsp": 12', '"tbsp": 15'))[0]
    assert said == "larder/units.py: the text in line 3 was replaced."
    assert end(env)[0] == 1.0
    env.close()


def test_a_working_patch_counts_when_the_episode_is_cut() -> None:
    env = made_with(steps=2)
    say(env, "ls")
    observation, reward, terminated, _, info = env.step(written(FIX))
    assert (reward, terminated, info["score"]["resolved"]) == (1.0, True, True)
    assert observation.endswith("That was the last of 2 replies.\nThe issue is solved.")
    env.reset(options={"task_id": TASK})
    say(env, FIX)
    reward, info = env.finish()
    assert (reward, info["task_id"], info["score"]["turns"]) == (1.0, TASK, 1)
    assert not env._workspace.is_open
    env.reset(options={"task_id": TASK})
    assert env.finish()[1]["score"]["cause"] == "empty"


def test_part_of_the_tests_is_part_of_the_reward() -> None:
    half = "sed -i 's/{amount} {name}/{amount:g} {name}/' larder/shopping.py"
    breaks = "echo 'def total(recipes): return {}' >> larder/recipe.py"
    env = made_with(TWO_TESTS, partial_credit=True)
    say(env, half)
    reward, score = end(env)
    assert (reward, score["resolved"], score["fail_to_pass"], score["pass_to_pass"]) == (
        0.5,
        False,
        "1 of 2",
        "1 of 1",
    )
    env.reset(options={"task_id": TWO_TESTS})
    say(env, f"{half}; {breaks}")
    reward, score = end(env)
    assert (reward, score["fail_to_pass"], score["pass_to_pass"]) == (0.0, "1 of 2", "0 of 1")
    env.close()


def test_forks_are_independent() -> None:
    env = made_with()
    say(env, "echo 1 > mark")
    fork = env.fork()
    say(fork, f"{FIX}; echo 2 > mark")
    assert (
        say(env, "cat mark; git status --short")
        == "<returncode>0</returncode>\n<output>\n1\n?? mark\n</output>"
    )
    further = fork.fork()
    env.close()
    assert end(fork)[0] == 1.0
    say(further, "git checkout -q larder")
    reward, score = end(further)
    assert (reward, score["cause"], score["turns"]) == (0.0, "", 4)


def test_what_can_not_be_copied_or_used_any_more_is_lost(env: RepositoryEnv) -> None:
    say(env, "chmod 0 /testbed")
    assert "Permission denied" in say(env, "ls")
    fork = env.fork()
    assert end(fork)[1]["cause"] == "workspace_lost"
    assert env.finish()[1]["score"]["cause"] == "not_taken"


HOSTILE = {
    "tests that never fail": "cat >> larder/__init__.py <<'E'\n"
    "import unittest\nunittest.TestCase.assertEqual = lambda *_: None\nE",
    "forged output": "cat >> larder/__init__.py <<'E'\n"
    "import os\nprint('PASSED tests/test_units.py::UnitsTest::test_spoons', flush=True)\nos._exit(0)\nE",
    "everything deleted": "find . -mindepth 1 -delete",
    "the next command's shell": "echo 'exit 0' | tee /tmp/.bashrc /tmp/.profile; rm -rf .git; mkdir .git",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_trick_is_rewarded(env: RepositoryEnv, name: str) -> None:
    env.step(written(HOSTILE[name]))
    reward, score = end(env)
    assert (reward, score["resolved"]) == (0.0, False), score


def test_a_repository_with_its_tests_in_it_is_refused(tmp_path: Path) -> None:
    there = "diff --git a/.gitignore b/.gitignore\nnew file mode 100644\n--- /dev/null\n+++ b/.gitignore\n"
    task = replace(sample_tasks()[0], test_patch=f"{there}@@ -0,0 +1 @@\n+__pycache__/\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row_of(task)))
    env: Any = make_env(ENV, data=str(rows), checkouts=str(sample_checkouts())).unwrapped
    env.reset(seed=0)
    before = programs()
    with pytest.raises(
        TaskError, match="expected a repository without the tests of its test patch, found them"
    ):
        env.step(written("ls"))
    assert not env._workspace.is_open
    assert programs() == before


# ---- what is left


def test_nothing_is_left_whoever_closes() -> None:
    before = programs()
    env = made_with(workspaces=2)
    say(env, "setsid sleep 86311 & disown")
    assert len(programs() - before) == 1
    env.reset(options={"task_id": TASK})
    assert programs() == before
    say(env, "ls")
    fork = env.fork()
    assert len(programs() - before) == 2
    del fork
    gc.collect()
    assert len(programs() - before) == 1
    env.close()
    env.close()
    assert programs() == before
    say(env, "ls")
    env.close()
    assert programs() == before


def test_workspaces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made_with(workspaces=1)
    say(env, "ls")
    take = Places.take
    monkeypatch.setattr(Places, "take", lambda self, timeout_s=0.1: take(self, 0.1))
    with pytest.raises(SandboxError, match=r"waited 0\.1 s for one of 1 workspaces of agents"):
        env.fork()
    assert say(env, "echo on").endswith("on\n</output>")
    env.close()


def test_a_sandbox_that_fails_is_an_error(env: RepositoryEnv) -> None:
    say(env, FIX)
    killed = [psutil.Process(int(pid)) for pid in programs()]
    for process in killed:
        process.kill()
    assert killed
    psutil.wait_procs(killed, timeout=30)
    with pytest.raises(SandboxError):
        env.step(written("ls"))


# ---- patches that somebody else grades


def test_a_patch_is_handed_in_and_not_graded(tmp_path: Path) -> None:
    env = made_with(hand_in=str(tmp_path / "in"))
    say(env, FIX + " && printf '\\377\\n' > larder/odd.txt")
    reward, score = end(env)
    assert (reward, score["cause"], score["turns"]) == (0.0, "", 2)
    found = take_hand_in(tmp_path / "in", TASK)
    assert found is not None
    assert (found.submitted, found.cause, found.turns) == (True, "", 2)
    assert '"tbsp": 15' in found.patch
    assert "\udcff" in found.patch
    assert take_hand_in(tmp_path / "in", TASK) is None
    env.reset(seed=0, options={"task_id": TASK})
    env.finish()
    found = take_hand_in(tmp_path / "in", TASK)
    assert found == HandIn(cause="empty", message="the files are as they were", turns=0)
    env.close()
