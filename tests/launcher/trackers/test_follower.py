"""Records go to a tracker once, in order, whatever it does: one that fails, refuses or hangs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trieline.config import ConfigError, load_config
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.trackers import follower as module
from trieline.launcher.trackers.follower import Follower, figures_of, read_sent, sent_file, unsent
from trieline.launcher.trackers.tracker import (
    Tracker,
    expect_installed,
    flattened,
    tracked_run,
)

DEADLINE_S = 20.0


class Kept:
    """A tracker that keeps what it gets, and fails when it is told to."""

    def __init__(self, *, opens_after: int = 0, refuses: int | None = None) -> None:
        self.got: list[tuple[int, dict[str, float]]] = []
        self.opened = self.closed = 0
        self._opens_after = opens_after
        self._refuses = refuses

    def open(self) -> Tracker:
        self.opened += 1
        if self.opened <= self._opens_after:
            msg = "no network"
            raise OSError(msg)
        return self

    def send(self, step: int, values: Mapping[str, float]) -> None:
        if step == self._refuses:
            msg = "a figure of no known kind"
            raise ValueError(msg)
        self.got.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.got]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "MOST_PAUSE_S", 0.1)
    folder = RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path}"]))
    (folder.path / "trackers").mkdir()
    return folder


def add(folder: RunFolder, *steps: int) -> None:
    with folder.metrics.open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "time": time.time(), "loss/total": step / 10}) + "\n")
            time.sleep(0.001)


def send(folder: RunFolder, tracker: Kept) -> bool:
    return Follower(folder, "kept", tracker.open, stop=threading.Event()).run(follow=False)


def test_what_is_there_is_sent_once(folder: RunFolder) -> None:
    tracker = Kept()
    assert send(folder, tracker), "nothing to send"
    assert tracker.opened == 0
    add(folder, 1, 2)
    assert unsent(folder, "kept") == 2
    assert send(folder, tracker)
    assert send(folder, tracker)
    add(folder, 3)
    assert send(folder, tracker)
    assert tracker.got == [(step, {"loss/total": step / 10}) for step in (1, 2, 3)]
    assert tracker.opened == tracker.closed == 2
    assert unsent(folder, "kept") == 0


def test_steps_that_are_made_again_are_sent_and_no_others(folder: RunFolder) -> None:
    tracker = Kept()
    add(folder, 1, 2, 3)
    assert send(folder, tracker)
    # As a learner that goes on from step 1 does: another, shorter file.
    kept = folder.metrics.read_text().splitlines()[0]
    folder.metrics.unlink()
    folder.metrics.write_text(kept + "\n")
    add(folder, 2, 3)
    assert send(folder, tracker)
    assert tracker.steps == [1, 2, 3, 2, 3]


def test_one_that_comes_back_gets_all(folder: RunFolder) -> None:
    tracker = Kept(opens_after=3)
    add(folder, 1, 2)
    assert send(folder, tracker)
    assert tracker.steps == [1, 2]
    assert tracker.opened == 4


def test_one_that_stays_away_is_given_up_with_its_reason_and_gets_all_later(folder: RunFolder) -> None:
    add(folder, 1, 2)
    assert not send(folder, Kept(opens_after=1000))
    sent = read_sent(sent_file(folder, "kept"))
    assert sent.trouble == "OSError: no network"
    assert unsent(folder, "kept") == 2
    tracker = Kept()
    assert send(folder, tracker)
    assert tracker.steps == [1, 2]
    assert read_sent(sent_file(folder, "kept")).trouble == ""


def test_a_record_that_is_refused_holds_up_no_others(folder: RunFolder) -> None:
    tracker = Kept(refuses=2)
    add(folder, 1, 2, 3)
    assert send(folder, tracker)
    assert tracker.steps == [1, 3]
    sent = read_sent(sent_file(folder, "kept"))
    assert (sent.records, sent.left_out) == (2, 1)


def test_it_follows_until_it_is_asked_to_stop_and_sends_what_is_there_then(folder: RunFolder) -> None:
    tracker, stop = Kept(), threading.Event()
    add(folder, 1)
    thread = threading.Thread(
        target=Follower(folder, "kept", tracker.open, stop=stop).run, kwargs={"follow": True}
    )
    thread.start()
    wait_for(lambda: tracker.steps == [1])
    add(folder, 2)
    wait_for(lambda: tracker.steps == [1, 2])
    add(folder, 3)
    stop.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert tracker.steps == [1, 2, 3]
    assert tracker.closed == 1


def test_a_damaged_note_sends_all_again(folder: RunFolder) -> None:
    sent_file(folder, "kept").write_bytes(b'{"until": "tomorrow"')
    add(folder, 1)
    tracker = Kept()
    assert send(folder, tracker)
    assert tracker.steps == [1]


def test_only_finite_numbers_are_figures() -> None:
    record = {
        "step": 1,
        "time": 2.0,
        "a/b": 3,
        "c": float("nan"),
        "d": float("inf"),
        "sample": {"x": 1},
        "e": "x",
    }
    assert figures_of(record) == {"a/b": 3.0}


def test_facts_have_dotted_names() -> None:
    assert flattened({"a": {"b": [1, {"c": None}]}, "d": True}) == {
        "a.b.0": "1",
        "a.b.1.c": "None",
        "d": "True",
    }


def test_a_run_is_the_same_wherever_its_folder_lies(folder: RunFolder, tmp_path: Path) -> None:
    first = tracked_run(folder, folder.load_config())
    moved = RunFolder(folder.path.rename(tmp_path / "moved"))
    assert tracked_run(moved, moved.load_config()).id == first.id
    assert first.facts["config"]["model"]["path"] == "builtin:tiny"
    assert "numpy" in first.facts["machine"]["packages"]


def test_trackers_that_begin_at_once_name_one_run(folder: RunFolder) -> None:
    config = folder.load_config()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: tracked_run(folder, config).id, range(8)))
    assert len(set(runs)) == 1


def test_what_is_not_installed_or_named_twice_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install 'trieline\[wandb\]'"):
        expect_installed(["wandb"])
    with pytest.raises(ConfigError, match="each of trackers once, got wandb, wandb"):
        load_config(["tiny"], ["run.trackers=['wandb', 'wandb']"])
    with pytest.raises(ConfigError, match=r"run\.trackers"):
        load_config(["tiny"], ["run.trackers=['neptune']"])


HANGING = """
import sys, types, time, pathlib
name = "trieline.launcher.trackers.wandb_tracker"
sys.modules["wandb"] = types.ModuleType("wandb")
sys.modules["wandb"].__spec__ = types.SimpleNamespace()
hanging = sys.modules[name] = types.ModuleType(name)
def open_run(run):
    pathlib.Path("opened").touch()
    time.sleep(3600)
hanging.open_run = open_run
from trieline.command_line import main
raise SystemExit(main(["track", sys.argv[1], "--to", "wandb", "--follow"]))
"""


def test_one_that_hangs_is_ended_by_a_second_signal_and_two_do_not_send_at_once(
    folder: RunFolder, tmp_path: Path
) -> None:
    add(folder, 1)
    command = [sys.executable, "-c", HANGING, str(folder.path)]
    hanging = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "opened").exists)
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "to send to wandb" in second.stderr
        for _ in range(2):
            os.kill(hanging.pid, signal.SIGINT)
            time.sleep(0.5)
        assert hanging.wait(DEADLINE_S) == 130
    finally:
        hanging.kill()
        hanging.communicate()
    assert unsent(folder, "wandb") == 1


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
