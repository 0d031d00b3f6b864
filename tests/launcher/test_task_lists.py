"""The lists of a run: asked for apart, kept, and asked for again only where the answer is not known."""

import sys
from pathlib import Path

import msgspec
import pytest

from trieline.actors.errors import EnvironmentSetupError
from trieline.command_line import main
from trieline.config import Config, ConfigError, load_config
from trieline.launcher import learner_program
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.task_lists import list_tasks, lists_by_env, read_listings, write_listings
from trieline.learner.process import LearnerRun
from trieline.wire.task_lists import TaskLists

MODULE = """
import os, tempfile
import gymnasium
from trieline.envs import Text

class Words(gymnasium.Env):
    observation_space = Text(200)
    action_space = Text(200)

    def __init__(self, words="ab"):
        os.chdir(tempfile.gettempdir())
        self.words = words

    def task_ids(self, split):
        return [f"{split} {word}" for word in self.words]

gymnasium.register(id="listed/Words-v0", entry_point=Words)
"""
WORDS = "listed_envs:listed/Words-v0"
DRAWN = "trieline/Arithmetic-v0"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listed_envs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def config(*envs: str) -> Config:
    return load_config(["tiny"], [f"envs=[{', '.join(envs)}]"])


def env(words: str = "ab", settings: str = "") -> str:
    return f"{{id = '{WORDS}', kwargs = {{words = '{words}'}}{settings}}}"


def test_what_lists_its_tasks_is_listed_apart(tmp_path: Path) -> None:
    folder = Path.cwd()
    listings = list_tasks(config(env(), f"{{id = '{DRAWN}'}}"))
    assert [(listing.env_id, listing.lists is None) for listing in listings] == [
        (WORDS, False),
        (DRAWN, True),
    ]
    lists = TaskLists(train=("train a", "train b"), test=("test a", "test b"))
    assert lists_by_env(listings) == {WORDS: lists}
    assert "listed_envs" not in sys.modules
    assert Path.cwd() == folder
    write_listings(tmp_path / "tasks.json", listings)
    assert read_listings(tmp_path / "tasks.json") == listings


def test_a_learner_elsewhere_is_given_the_file_that_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = f"envs=[{env()}]"
    assert main(["envs", "tasks", "--config", "tiny", "--set", setting]) == 0
    printed = capsys.readouterr().out
    told: list[LearnerRun] = []

    def learn(run: LearnerRun) -> int:
        told.append(run)
        return 0

    monkeypatch.setattr(learner_program, "run_learner", learn)
    folder = RunFolder(tmp_path)
    (tmp_path / "listed_envs.py").unlink()
    with pytest.raises(
        EnvironmentSetupError, match=rf"listed_envs.*{tmp_path}/tasks\.json: `trieline envs tasks`"
    ):
        learner_program.run_learner_program(config(env()), folder, resume=False)
    folder.tasks.write_text(printed)
    assert learner_program.run_learner_program(config(env()), folder, resume=False) == 0
    assert told[0].tasks[WORDS].train == ("train a", "train b")


@pytest.mark.parametrize(
    "settings", [", curriculum = {levels = [0]}", ", curriculum = {listed = false}"], ids=["levels", "drawn"]
)
def test_who_is_not_asked_for_its_tasks_lists_none(settings: str) -> None:
    assert list_tasks(config(env(settings=settings))) == []


def test_what_is_known_is_not_asked_again() -> None:
    known = [msgspec.structs.replace(list_tasks(config(env()))[0], lists=None)]
    assert list_tasks(config(env()), known) == known
    (other,) = list_tasks(config(env(words="abc")), known)
    assert other.lists is not None, "it is made with other arguments"
    assert len(other.lists.train) == 3


def test_a_list_that_is_none_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentSetupError, match=f"{WORDS}: task_ids: expected each train task once, got"):
        list_tasks(config(env(words="aa")))
    assert read_listings(tmp_path / "tasks.json") == []
    (tmp_path / "tasks.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"tasks\.json: expected lists of tasks, as"):
        read_listings(tmp_path / "tasks.json")
