"""A shell in a small sandbox: what solves a task, what is shown, and what hostile agents get: nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.envs.sandbox.conftest import SEALED, as_parameters, need
from trieline.envs.errors import TaskError
from trieline.envs.sandbox import Backend
from trieline.envs.swe.observations import SUBMIT
from trieline.envs.swe.replies import written
from trieline.envs.tools.shell_env import Shell
from trieline.envs.tools.shell_workspace import MOST_DEPTH, MOST_LEFT

DONE = written(f"echo {SUBMIT}")
COUNT = "count-lines"
"""A task of the sample: the number of lines, 7, has to stand in count.txt."""


@pytest.fixture(params=as_parameters(SEALED))
def env(request: pytest.FixtureRequest) -> Iterator[Shell]:
    need(request.param)
    env = Shell(backend=request.param)
    yield env
    env.close()


@pytest.fixture(scope="module")
def sealed() -> Backend:
    """One that is there."""
    need("bubblewrap")
    return "bubblewrap"


def play(env: Shell, task_id: str, *lines: str) -> tuple[float, dict[str, Any]]:
    """Run each line, then submit."""
    env.reset(options={"task_id": task_id})
    for line in lines:
        assert not env.step(written(line))[2]
    _, reward, terminated, _, info = env.step(DONE)
    assert terminated
    return reward, info["score"]


def row_of(check: str, **more: Any) -> dict[str, Any]:
    return {"id": "one", "task": "Do it.", "files": {"a.txt": "1\n"}, "check": check, **more}


def env_of(folder: Path, backend: Backend, row: dict[str, Any], **settings: Any) -> Shell:
    data = folder / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    return Shell(data=str(data), test_share=0.0, backend=backend, **settings)


def test_every_task_is_solved_by_its_solution(env: Shell) -> None:
    for task_id in (*env.task_ids("train"), *env.task_ids("test")):
        _, info = env.reset(options={"task_id": task_id})
        steps = [env.step(reply) for reply in env.demonstrate()]
        assert [(step[1], step[2]) for step in steps] == [(0.0, False), (1.0, True)], (info, steps)


def test_no_task_is_solved_by_another_file(sealed: Backend) -> None:
    env = Shell(backend=sealed)
    for task_id in (*env.task_ids("train"), *env.task_ids("test")):
        reward, score = play(env, task_id, "touch other.txt")
        assert (reward, score["passed"]) == (0.0, False), task_id


def test_the_files_of_the_task_are_there_and_no_others(env: Shell) -> None:
    observation, _ = env.reset(options={"task_id": COUNT})
    assert observation.startswith("Write how many lines fruit.txt has")
    assert env.step(written("ls -A"))[0] == "<returncode>0</returncode>\n<output>\nfruit.txt\n</output>"


def test_an_easy_task_takes_a_bare_line_and_a_harder_one_does_not(sealed: Backend) -> None:
    env = Shell(backend=sealed, steps=1)
    env.reset(options={"task_id": COUNT})
    observation, reward, terminated, _, _ = env.step("wc -l < fruit.txt > count.txt")
    assert (reward, terminated) == (1.0, True)
    assert observation.endswith("The task is done.")
    env.reset(options={"task_id": "sum-column"})
    assert env.step("echo 93 > total.txt")[1] == 0.0


def test_a_fork_goes_its_own_way(env: Shell) -> None:
    env.reset(options={"task_id": COUNT})
    env.step(written("echo 7 > count.txt"))
    fork = env.fork()
    env.step(written("echo 8 > count.txt"))
    assert (env.finish()[0], fork.finish()[0]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "nohup setsid sh -c 'sleep 1; while :; do echo 7 > count.txt; done' > /dev/null 2>&1 &",
            "exit",
        ),
        (
            "mkdir bin; for t in head tr cat sh bash; do printf '#!/bin/sh\\necho 7\\n' > $t; done\n"
            "cp head tr cat sh bash bin\n"
            "chmod +x bin/* head tr cat sh bash; echo 'exit 0' | tee .bashrc .profile .bash_profile",
            "exit",
        ),
        ("ln -s /etc/hostname count.txt", "not_taken"),
        ("ln -s ../start/fruit.txt count.txt", "not_taken"),
        ("mkfifo count.txt", "not_taken"),
        ("head -c 100000000 /dev/zero > big; yes 7 > count.txt", "exit"),
        ("echo 7 > count.txt; truncate -s 15M a b", "not_taken"),
        (f"echo 7 > count.txt; seq {MOST_LEFT} | xargs touch", "not_taken"),
        (f"echo 7 > count.txt; mkdir -p {'d/' * MOST_DEPTH}", "not_taken"),
        ("mkdir no; chmod 0 no; echo 7 > count.txt", "not_taken"),
    ],
)
def test_hostile_agents_get_nothing(env: Shell, line: str, reason: str) -> None:
    reward, score = play(env, COUNT, line)
    assert (reward, score["reason"]) == (0.0, reason), score


def test_links_that_stay_inside_are_taken(env: Shell) -> None:
    for line in ("mkdir s; echo 7 > s/n; ln -s s/n count.txt", "echo 7 > n; ln n count.txt"):
        assert play(env, COUNT, line)[0] == 1.0


def test_what_cannot_be_copied_is_a_lost_fork(env: Shell) -> None:
    env.reset(options={"task_id": COUNT})
    env.step(written("python3 -c \"import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')\""))
    assert env.fork().finish()[1]["score"]["reason"] == "workspace_lost"
    assert env.finish()[1]["score"]["reason"] == "not_taken"


@pytest.mark.parametrize(
    ("check", "reward", "reason"),
    [
        ('cmp -s "$START/a.txt" a.txt', 1.0, ""),
        ("echo score=0.25", 0.25, "score"),
        ("echo score=0.25; echo more", 1.0, ""),
        ("echo score=1; exit 3", 0.0, "exit"),
        ("echo score=7", 0.0, "score"),
        ("echo score=nan", 0.0, "score"),
        ("sleep 30", 0.0, "timeout"),
        ("#!/usr/bin/python3\nprint('score=0.5')", 0.5, "score"),
        ("#!/usr/bin/python3\nimport json\nassert not json.loads('1'), 'no'", 0.0, "exit"),
    ],
)
def test_a_check_decides(tmp_path: Path, sealed: Backend, check: str, reward: float, reason: str) -> None:
    env = env_of(tmp_path, sealed, row_of(check), check_seconds=0.5 if reason == "timeout" else 10.0)
    got, score = play(env, "one", "echo 'raise SystemExit(0)' > json.py")
    assert (got, score["reason"]) == (reward, reason), score


def test_time_and_output_have_limits(tmp_path: Path, sealed: Backend) -> None:
    env = env_of(tmp_path, sealed, row_of("true"), command_seconds=0.5, output_bytes=200, steps=3)
    env.reset(seed=0)
    assert "longer than 0.5 s" in env.step(written("sleep 30"))[0]
    shown = env.step(written("seq 10000"))[0]
    assert "bytes; print less" in shown
    assert len(shown) < 500
    observation, reward, terminated, _, _ = env.step("No more ideas.\nNone.")
    assert "That was the last of 3 replies." in observation
    assert (reward, terminated) == (1.0, True)


def test_who_does_nothing_gets_nothing(tmp_path: Path, sealed: Backend) -> None:
    env = env_of(tmp_path, sealed, row_of("true"))
    env.reset(seed=0)
    reward, info = env.finish()
    assert (reward, info["score"]["reason"]) == (0.0, "untouched")
    assert env.solution() is None
    assert list(env.demonstrate()) == []


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"command_seconds": 1e9}, {"check_seconds": 0}, {"output_bytes": 1}, {"workspaces": 0}],
)
def test_settings_have_bounds(settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=next(iter(settings))):
        Shell(**settings)
