"""The command for a machine with a GPU, without one: what a CPU can run runs, the rest is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_what_a_cpu_can_run_runs(tmp_path: Path) -> None:
    parts = ("tests", "head", "step-4b", "sampling", "memory", "learning")
    ran = gpu("--output", str(tmp_path), "--parts", *parts)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [row["part"] for row in rows] == list(parts)
    assert [row.get("left_out") for row in rows] == [None, None, "needs a GPU", None, None, "needs a GPU"]
    sides = {row["side"] for row in json.loads((tmp_path / "token_logprob.json").read_text())["rows"]}
    assert {"ours", "plain", "chunked"} <= sides
    assert "passed" in (tmp_path / "tests.log").read_text()
    sampled, _ = json.loads((tmp_path / "sampling.json").read_text())["rows"]
    assert sampled["tokens_per_second"] > 0
    (told,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    # The head may keep a GiB of logits; the rest of this shape is nothing beside.
    assert 1.0 < told["told_tensors_gib"] < 1.1


def test_a_part_that_is_out_of_time_is_named_and_the_command_fails(tmp_path: Path) -> None:
    ran = gpu("--output", str(tmp_path), "--parts", "head", "tests", "--limit", "0.5")
    assert ran.returncode == 1
    first, second = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert first["left_out"].startswith("it took more than 0 s") or "no time" in first["left_out"]
    assert second["left_out"] == "no time was left"
    assert "no time was left" in ran.stdout
