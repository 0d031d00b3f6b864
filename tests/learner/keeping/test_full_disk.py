"""A disk that takes no more: one line that names the file. Limits on the size of a file stand for it."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL = """
import resource
import threading
# TensorBoard's thread has its own word to say of it, in the middle of ours.
threading.excepthook = lambda arguments: None
from pathlib import Path
def fill(size=64):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
run_dir = Path({run_dir!r})
"""
CHECKPOINT = """
import torch
from trieline.learner.keeping.checkpoint import TrainerState, save_checkpoint
state = TrainerState(step=3, policy_version=3, records_taken=3, warm_started=False, skipped_in_a_row=0,
    curriculum={{}})
fill(100_000)
save_checkpoint(run_dir / "checkpoints", state, source_model=Path({model!r}),
    weights={{"w": torch.zeros(100_000)}}, trainer={{}}, keep=1)
"""
METRICS = """
from trieline.learner.keeping.metrics import MetricsLog
log = MetricsLog(run_dir, step=0)
fill()
try:
    log.write(1, {{"sample": "x" * 100}})
finally:
    log.close()
"""
TENSORBOARD = """
from trieline.learner.keeping.metrics import MetricsLog
log = MetricsLog(run_dir, step=0)
fill(3_000)
try:
    # Its file grows faster than the other.
    for step in range(100):
        log.write(step, {{f"figure/{{i}}": 1.0 for i in range(10)}})
finally:
    log.close()
"""
RUN_ID = """
from trieline.learner.intake.accepted import run_id_of
fill(4)
run_id_of(run_dir)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            CHECKPOINT,
            "CheckpointError: can't write the checkpoint {run_dir}/checkpoints/step_3: File too large",
        ),
        (METRICS, "MetricsError: can't write {run_dir}/metrics.jsonl: File too large"),
        (TENSORBOARD, "MetricsError: can't write {run_dir}/tensorboard: File too large"),
        (RUN_ID, "JournalError: can't keep the run's id in {run_dir}/run_id: "),
    ],
    ids=["checkpoint", "metrics", "tensorboard", "run id"],
)
def test_the_file_is_named(code: str, said: str, tiny_folder: Path, tmp_path: Path) -> None:
    program = (FULL + code).format(run_dir=str(tmp_path), model=str(tiny_folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert said.format(run_dir=tmp_path) in done.stderr, done.stderr
    assert not [path for path in tmp_path.rglob(".step_*")]
