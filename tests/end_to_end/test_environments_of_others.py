"""Environments that do what a program of its own may do are trained on, and disturb nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

ENVIRONMENTS = """
import multiprocessing, operator, os, signal, tempfile
import gymnasium
from trieline.envs import Text

class Base(gymnasium.Env):
    observation_space = Text(200)
    action_space = Text(1_000_000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = (options or {}).get("task_id", str(self.np_random.choice(["cat", "dog"])))
        return f"Say {self.word}.", {"task_id": self.word}

    def graded(self, action):
        return float(self.word in action)

    def step(self, action):
        return "", self.graded(action), True, False, {"score": action[:50]}

class Pooled(Base):
    def graded(self, action):
        with multiprocessing.Pool(1) as pool:
            return float(pool.starmap(operator.contains, [(action, self.word)])[0])

class Moves(Base):
    def __init__(self):
        os.chdir(tempfile.gettempdir())

class Alarmed(Base):
    def graded(self, action):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        return 0.0

for kind in (Pooled, Moves, Alarmed):
    gymnasium.register(id=f"case/{kind.__name__}-v0", entry_point=kind)
"""
SETTINGS = """
[run]
name = "others"
folder = "runs"
[model]
path = "builtin:tiny"
dtype = "float32"
[actor]
turn_timeout_s = 20
generate_timeout_s = 30
episode_timeout_s = 30
[learner]
steps = 2
trees_per_step = 2
group_size = 2
max_staleness = 0
batch_timeout_s = 60
[evaluation]
episodes = 2
"""
ENV = """
[[envs]]
id = "others:case/{name}-v0"
episode = {{ max_turns = 1, max_tokens = 8 }}
"""


def train(tmp_path: Path, *names: str) -> tuple[int, str]:
    # Its name is also that of a module of Python's, which the programs must not take from here.
    (tmp_path / "queue.py").write_text("raise SystemExit('taken from the working folder')")
    (tmp_path / "others.py").write_text(ENVIRONMENTS)
    (tmp_path / "config.toml").write_text(SETTINGS + "".join(ENV.format(name=name) for name in names))
    ran = subprocess.run(
        [sys.executable, "-m", "trieline", "train", "--config", "config.toml"],
        cwd=tmp_path,
        env={**os.environ, "TRIELINE_TEST": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    return ran.returncode, ran.stdout


def left_behind(tmp_path: Path) -> list[str]:
    found = []
    for proc in Path("/proc").iterdir():
        try:
            mark = f"TRIELINE_TEST={tmp_path}\0".encode()
            if proc.name.isdigit() and mark in (proc / "environ").read_bytes():
                found.append((proc / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.timeout(600)
def test_pools_of_processes_and_other_folders_are_theirs_to_use(tmp_path: Path) -> None:
    status, output = train(tmp_path, "Pooled", "Moves")
    assert status == 0, output
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.md").is_file()
    assert f"run folder: {run}" in output
    assert (run / "logs" / "launcher.log").read_text() == "", "nothing died"
    assert "ended with status" not in (run / "logs" / "actor-0.log").read_text()
    assert left_behind(tmp_path) == []


@pytest.mark.timeout(600)
def test_the_reason_of_an_environment_that_never_works_reaches_the_screen(tmp_path: Path) -> None:
    status, output = train(tmp_path, "Alarmed")
    assert status == 2
    assert "signal only works in main thread" in output
    assert "Traceback" not in output
    assert left_behind(tmp_path) == []
