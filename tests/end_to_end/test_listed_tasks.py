"""An environment with a list of tasks: each is trained on once an epoch, through the real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from trieline.wire.journal import read_journal

pytestmark = pytest.mark.end_to_end

DEADLINE_S = 500.0
ENV = "words:case/Words-v0"
ENVIRONMENT = """
import gymnasium
from trieline.envs import Text

WORDS = {"train": ["ant", "bee", "cat", "dog", "elk", "fox"], "test": ["gnu", "hen", "owl"]}

class Words(gymnasium.Env):
    observation_space = Text(200)
    action_space = Text(1_000_000)

    def task_ids(self, split):
        return WORDS[split]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = (options or {}).get("task_id", "none")
        return f"Say {self.word}.", {"task_id": self.word}

    def step(self, action):
        return "", float(len(action) % 2), True, False, {"task_id": self.word}

gymnasium.register(id="case/Words-v0", entry_point=Words)
"""
CONFIG = f"""
[run]
name = "listed"
folder = "runs"
[model]
path = "builtin:tiny"
dtype = "float32"
[[envs]]
id = "{ENV}"
episode = {{ max_turns = 1, max_tokens = 4 }}
[actor]
system_prompt = ""
[learner]
steps = 6
trees_per_step = 2
group_size = 2
max_staleness = 0
threads = 1
[evaluation]
episodes = 2
"""


def records(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for line in lines if "reward/mean" in (record := json.loads(line))]


def train(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trieline", "train", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(1500)
def test_an_interrupted_run_plays_each_task_once_an_epoch(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(ENVIRONMENT)
    (tmp_path / "config.toml").write_text(CONFIG)
    process = train(tmp_path, "--config", "config.toml")
    deadline = time.monotonic() + DEADLINE_S
    while not any(records(run) for run in (tmp_path / "runs").glob("*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, output
    (run,) = (tmp_path / "runs").iterdir()
    process = train(tmp_path, "--resume", str(run))
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output

    steps = records(run)
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    state = json.loads((run / "checkpoints" / "step_6" / "trainer" / "state.json").read_text())
    used = [delivery.tree.task_id for delivery in read_journal(run / "journal")][: state["records_taken"]]
    words = ["ant", "bee", "cat", "dog", "elk", "fox"]
    assert Counter(used[:6]) == Counter(used[6:]) == Counter(words)
    assert steps[-1][f"curriculum/{ENV}/epoch"] == 2
    assert steps[-1][f"curriculum/{ENV}/seen"] == 1
    evaluations = [json.loads(path.read_text())["envs"] for path in sorted((run / "eval").iterdir())]
    assert [[t["task_id"] for t in env["transcripts"]] for (env,) in evaluations] == [["gnu", "hen"]] * 2
    assert all(env["held_out"] and not env["broken"] for (env,) in evaluations)
