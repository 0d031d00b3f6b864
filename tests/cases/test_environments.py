"""Environments that use the process they run in: regressions of checking them and training on them."""

import os
from pathlib import Path

import pytest

from tests.cases.commands import INPUTS, MARK, ONE_ENV, left_behind, run_of, settings, steps_of, trieline
from tests.cases.model_folders import make_model

ENVS = "case_envs.py"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder with the module of the environments."""
    (tmp_path / ENVS).write_bytes((INPUTS / ENVS).read_bytes())
    return tmp_path


def train(here: Path, env_id: str, *more: str) -> list[str]:
    return ["train", "--config", str(ONE_ENV), *settings(envs__0__id=env_id), *more]


def test_22_env_pool(here: Path) -> None:
    env_id, mark = "case_envs:case/Pooled-v0", f"{os.getpid()}-{here}"
    trieline("envs", "check", env_id, cwd=here).expect(0)
    ran = trieline(*train(here, env_id), cwd=here, **{MARK: mark}).expect(0)
    assert len(steps_of(run_of(ran))) == 2
    assert left_behind(mark) == []


def test_23_env_chdir(here: Path) -> None:
    make_model("trim", here / "m")
    more = settings(run__folder="runs", model__path="m")
    ran = trieline(*train(here, "case_envs:case/Moves-v0", *more), cwd=here).expect(0)
    folder = run_of(ran)
    assert folder.path.parent == here / "runs"
    assert len(steps_of(folder)) == 2


def test_24_env_alarm(here: Path) -> None:
    env_id = "case_envs:case/Alarmed-v0"
    reason = "signal only works in main thread"
    ran = trieline("envs", "check", env_id, cwd=here).expect(1)
    assert "training calls environments in a thread, where signal.signal() raises" in ran.said
    ran = trieline(*train(here, env_id), cwd=here).expect(2)
    assert reason in ran.said
