"""The whole loop on the tiny model, through the real processes, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from trieline.wire.journal import read_journal

pytestmark = pytest.mark.end_to_end

DEADLINE_S = 240.0
# A mix that the tiny model samples a success of within a few supervised steps: what is tested is the loop.
CONFIG = """
[run]
name = "e2e"
[model]
path = "builtin:tiny"
dtype = "float32"
[[envs]]
id = "trieline/Arithmetic-v0"
curriculum.levels = [0]
episode = { max_turns = 1, max_tokens = 4 }
[[envs]]
id = "trieline/GuessNumber-v0"
curriculum.levels = [0]
episode = { max_turns = 2, max_tokens = 4 }
[actor]
system_prompt = ""
episodes = 16
[policy_server]
threads = 1
[learner]
steps = 4
trees_per_step = 4
group_size = 4
# A step whose returns are all equal has no figures.
fill_batches = 8.0
max_staleness = 0
threads = 1
checkpoint_every = 2
[learner.optimizer]
lr = 1e-4
[learner.warm_start]
target = 0.02
trees_per_step = 16
evaluate_every = 10
max_steps = 400
[evaluation]
episodes = 8
transcripts = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace('name = "e2e"', f'name = "e2e"\nfolder = "{tmp_path / "runs"}"'))
    return path


def trieline(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trieline", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=DEADLINE_S)
    return output


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, f"ended before {what}:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.1)


def records(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for line in lines if "reward/mean" in (record := json.loads(line))]


def run_folder(tmp_path: Path) -> Path:
    return next((tmp_path / "runs").glob("e2e-*"))


@pytest.fixture
def no_orphans() -> Iterator[None]:
    """Nothing that a test started runs on after it."""
    yield
    deadline = time.monotonic() + 20
    while (left := [*_descendants_by_environment(str(os.getpid()))]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def _descendants_by_environment(mark: str) -> Iterator[str]:
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        try:
            environment = (proc / "environ").read_bytes()
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"TRIELINE_TEST={mark}\0".encode() in environment:
            yield command


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.timeout(600)
def test_a_run_learns_is_interrupted_and_goes_on(config: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRIELINE_TEST": str(os.getpid())}
    process = trieline("train", "--config", str(config), env=environment)
    wait_for(lambda: any((tmp_path / "runs").glob("e2e-*")), "the run folder", process)
    run = run_folder(tmp_path)
    wait_for(lambda: len(records(run)) >= 2, "the second step", process)
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert f"trieline train --resume {run}" in output

    interrupted = len(records(run))
    output = finish(trieline("train", "--resume", str(run), env=environment))
    steps = [int(record["step"]) for record in records(run)]
    assert steps == [1, 2, 3, 4], output
    assert interrupted >= 2
    _check_run_folder(run)


def _check_run_folder(run: Path) -> None:
    last = run / "checkpoints" / "step_4" / "model"
    model = AutoModelForCausalLM.from_pretrained(last)
    assert AutoTokenizer.from_pretrained(last)("7+5")["input_ids"]
    assert sum(p.numel() for p in model.parameters()) > 500_000
    deliveries = list(read_journal(run / "journal"))
    keys = [(d.actor_id, d.sequence_number) for d in deliveries]
    assert len(keys) == len(set(keys)) >= 4 * 4
    report = (run / "report.md").read_text()
    assert "before (step 0)" in report
    assert "trieline/Arithmetic-v0" in report
    assert (run / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert any((run / "tensorboard").iterdir())
    # Float32 on both sides: what was recorded is what is recomputed. A step without spread has no figure.
    mismatches = [r["mismatch_kl/mean"] for r in records(run) if "mismatch_kl/mean" in r]
    assert mismatches
    assert max(mismatches) < 1e-4
    assert {r["off_policy/staleness/max"] for r in records(run)} == {0}
    shown = finish(trieline("show", str(run)))
    assert "policy" in shown
    assert "return" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--set", "learner.stpes=3"), "Did you mean learner.steps?"),
        (("train", "--config", "tiny", "--set", "envs.0.id=trieline/Arithmetc-v0"), "trieline/Arithmetic-v0"),
        (("train", "--config", "tiny", "--set", "model.path=/no/such/folder"), "/no/such/folder"),
        (("show", "/no/such/run"), "/no/such/run"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    process = trieline(*arguments, cwd=tmp_path)
    output = finish(process)
    assert process.returncode == 2, output
    assert expected in output
    assert "Traceback" not in output
