"""Environments are tried before a run without a trace in the program that starts it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trieline.actors.errors import EnvironmentSetupError
from trieline.config import Config, load_config
from trieline.launcher.environment_checks import check_environments, first_line

MODULE = """
import os, signal, tempfile
import gymnasium
from trieline.envs import Text

class Base(gymnasium.Env):
    observation_space = Text(200)
    action_space = Text(200)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "Say it.\\nNow.", {"task_id": "it"}

    def step(self, action):
        return "", 1.0, True, False, {}

class Moves(Base):
    def __init__(self):
        os.chdir(tempfile.gettempdir())

class Dies(Base):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Leaves(Base):
    def __init__(self):
        os._exit(0)

class Alarmed(Base):
    def __init__(self):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

class Fails(Base):
    def reset(self, *, seed=None, options=None):
        raise ZeroDivisionError("no luck")

for kind in (Moves, Dies, Leaves, Alarmed, Fails):
    gymnasium.register(id=f"tried/{kind.__name__}-v0", entry_point=kind)
"""


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tried_envs.py").write_text(MODULE)
    before = Path.cwd()
    monkeypatch.syspath_prepend(str(tmp_path))
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def config(name: str) -> Config:
    return load_config(["tiny"], [f"envs=[{{id = 'tried_envs:tried/{name}-v0'}}]", "actor.turn_timeout_s=20"])


def test_one_that_changes_the_folder_moves_nobody_else(working_folder: Path) -> None:
    check_environments(config("Moves"))
    assert Path.cwd() == working_folder
    assert "tried_envs" not in sys.modules
    given = config("Moves")
    assert first_line(given.envs[0], given) == "Say it."


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Dies", "the process was ended by SIGKILL"),
        ("Leaves", "the process exited with status 0"),
        ("Alarmed", "signal only works in main thread"),
        ("Fails", "ZeroDivisionError: no luck"),
        ("NoSuch", ""),
    ],
)
@pytest.mark.usefixtures("working_folder")
def test_one_that_fails_is_named_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(EnvironmentSetupError, match=f"tried_envs:tried/{name}-v0.*{reason}"):
        check_environments(config(name))
