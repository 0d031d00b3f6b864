"""The command for a machine with a GPU, without one: what a CPU can run runs, the rest is named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import LIMIT, PARTS, START, latest_ends, run_within

ROOT = Path(__file__).parents[2]


def gpu(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_is_sure_of_its_time() -> None:
    assert START + sum(part.limit for part in PARTS) <= LIMIT
    # However long those before it took.
    ends = [START, *latest_ends(PARTS, LIMIT, 1.0)]
    for part, before, end in zip(PARTS, ends[:-1], ends[1:], strict=True):
        assert end - before >= part.limit
    assert ends[-1] == LIMIT


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "sys.exit(3)"
    )
    log = tmp_path / "part.log"
    assert run_within(["-c", code], log, 600.0, dict(os.environ)) == 3
    child = Path("/proc", log.read_text().strip(), "status")
    deadline = time.monotonic() + 60.0
    # Whoever collects the dead here may take a moment.
    while child.exists() and "zombie" not in child.read_text():
        assert time.monotonic() < deadline, child.read_text()
        time.sleep(0.05)


def test_a_part_over_its_limit_is_ended(tmp_path: Path) -> None:
    code = "import time; time.sleep(600)"
    assert run_within(["-c", code], tmp_path / "part.log", 0.0, dict(os.environ)) is None


def test_a_small_step_and_the_head_run(tmp_path: Path) -> None:
    ran = gpu("--output", str(tmp_path), "--parts", "head", "step-0.6b")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [row["part"] for row in rows] == ["head", "step-0.6b"]
    sides = {row["side"]: row for row in json.loads((tmp_path / "token_logprob.json").read_text())["rows"]}
    assert {"ours", "plain", "chunked", "gather"} <= {name for name, row in sides.items() if "ms" in row}
    (step,) = json.loads((tmp_path / "train_step.json").read_text())["rows"]
    assert step["gradient_difference"] < 1e-5


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    ran = gpu("--output", str(tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [(row["part"], row["exit_status"]) for row in rows] == [(part.name, 0) for part in PARTS]
    assert "passed" in (tmp_path / "tests-0.log").read_text()
    attention = json.loads((tmp_path / "tree_attention.json").read_text())["rows"]
    assert {"tree", "sequences", "segments", "dense"} == {r["side"] for r in attention if "left_out" not in r}
    sampled, _ = json.loads((tmp_path / "sampling.json").read_text())["rows"]
    assert sampled["tokens_per_second"] > 0
    tiles = json.loads((tmp_path / "kernel_tiles.json").read_text())["rows"]
    assert sorted(row["kernel"] for row in tiles if row["ms"] > 0) == ["attend", "keys", "queries"]
    (told,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    # The head may keep a GiB of logits; the rest of this shape is nothing beside.
    assert 1.0 < told["told_tensors_gib"] < 1.1
    assert list((tmp_path / "runs").rglob("*.safetensors"))


def test_a_part_that_is_out_of_time_is_named_and_the_command_fails(tmp_path: Path) -> None:
    ran = gpu("--output", str(tmp_path), "--parts", "head", "tests", "--limit", "0.5")
    assert ran.returncode == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [row["left_out"] for row in rows] == ["no time was left"] * 2
    assert "no time was left" in ran.stdout
