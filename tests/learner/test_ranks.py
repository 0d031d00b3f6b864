"""Whole replays by several processes: the same run as by one, whatever their number later, and killed."""

import json
import multiprocessing
import re
import signal
import subprocess
import sys
import time
from os import kill
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.test_resume import GROUP, LORA, VTRACE, metrics_of, replay
from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.keeping.checkpoint import (
    latest_checkpoint,
    read_model_weights,
    read_state,
    read_trainer_tensors,
)
from trieline.learner.ranks.start import _start, place_of

REPLAY = """
import logging, msgspec, sys
from pathlib import Path
from tests.learner.test_resume import replay
from trieline.learner.config import LearnerConfig
logging.basicConfig(level=logging.INFO)
config, recorded, model, run_dir = sys.argv[1:]
sys.exit(replay(
    msgspec.json.decode(config, type=LearnerConfig), Path(recorded), Path(model), Path(run_dir)))
"""
ENDLESS = msgspec.structs.replace(GROUP, ranks=2, steps=100_000, replay_epochs=50_000, checkpoint_every=2)


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = read_state(checkpoint)
    return read_model_weights(checkpoint, state) | read_trainer_tensors(checkpoint, state)


def expect_same_run(run_dir: Path, straight: Path) -> None:
    """Up to the rounding of float32, which AdamW makes more of where a gradient is nearly 0."""
    expected, found = (tensors_of(d / "checkpoints/step_4") for d in (straight, run_dir))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            assert float((found[name] - tensor).norm() / tensor.norm().clamp_min(1e-9)) < 1e-3, name
    assert int(found["updates"]) == 4
    for own, other in zip(metrics_of(run_dir), metrics_of(straight), strict=True):
        assert set(own) == set(other)
        for name in ("loss/total", "optim/grad_norm", "value/mean", "completions/mean_length", "tree/depth"):
            assert own[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize(
    ("trained", "first", "then", "gather"),
    [
        (VTRACE, 2, 1, "layer"),
        pytest.param(VTRACE, 1, 2, "step", marks=pytest.mark.long),
        pytest.param(VTRACE, 3, 2, "layer", marks=pytest.mark.long),
        pytest.param(LORA, 2, 1, "layer", marks=pytest.mark.long),
        pytest.param(LORA, 1, 2, "step", marks=pytest.mark.long),
    ],
    ids=["2 and 1", "1 and 2", "3 and 2", "adapters, 2 and 1", "adapters, 1 and 2"],
)
def test_a_run_goes_on_with_another_number_of_ranks(
    trained: LearnerConfig,
    first: int,
    then: int,
    gather: str,
    recorded: Path,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    straight, run_dir = tmp_path / "straight", tmp_path / "run"
    assert replay(trained, recorded, tiny_folder, straight) == 0

    def config(ranks: int, **settings: object) -> LearnerConfig:
        own = {"gather": gather} if ranks > 1 else {}
        return msgspec.structs.replace(trained, ranks=ranks, **own, **settings)

    half = config(first, checkpoint_every=2, keep_checkpoints=9)
    assert replay(half, recorded, tiny_folder, run_dir) == 0
    expect_same_run(run_dir, straight)
    (run_dir / "checkpoints/step_4").rename(tmp_path / "step_4")
    assert replay(config(then), recorded, tiny_folder, run_dir, resume=True) == 0
    expect_same_run(run_dir, straight)
    if trained.lora is None:
        model = AutoModelForCausalLM.from_pretrained(run_dir / "checkpoints/step_2/model")
        weights = tensors_of(run_dir / "checkpoints/step_2")
        assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def started(recorded: Path, model: Path, run_dir: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A learner of two ranks that has saved something, and the process of the other rank."""
    config = msgspec.json.encode(ENDLESS).decode()
    with log.open("wb") as output:
        learner = subprocess.Popen(
            [sys.executable, "-c", REPLAY, config, str(recorded), str(model), str(run_dir)],
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 240
    while latest_checkpoint(run_dir / "checkpoints") is None:
        assert learner.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.1)
    found = re.search(r"rank 1 \(process (\d+) on", log.read_text())
    assert found
    return learner, int(found[1])


def expect_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, f"process {pid} runs on"
        time.sleep(0.05)


@pytest.mark.long
def test_a_killed_rank_ends_the_run_by_its_name(recorded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    learner, other = started(recorded, tiny_folder, run_dir, log)
    kill(other, signal.SIGKILL)
    assert learner.wait(60) == 1
    text = log.read_text()
    assert re.search(rf"rank 1 \(process {other} on .*\) is gone, killed by SIGKILL: the run ends here", text)
    assert "Traceback" not in text
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    step = read_state(checkpoint).step
    alone = msgspec.structs.replace(ENDLESS, ranks=1, steps=step + 1)
    assert replay(alone, recorded, tiny_folder, run_dir, resume=True) == 0
    assert [r["step"] for r in metrics_of(run_dir)] == list(range(1, step + 2))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_other_rank_ends_with_rank_0(
    number: signal.Signals, recorded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    learner, other = started(recorded, tiny_folder, run_dir, log)
    # Of a whole process group, as Ctrl-C in a terminal.
    kill(other, signal.SIGINT)
    learner.send_signal(number)
    assert learner.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    expect_gone(other)
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    assert (read_state(checkpoint).step == last) or number == signal.SIGKILL


def test_a_rank_that_ends_before_it_meets_the_others_is_not_waited_for() -> None:
    crew = (
        "import torch; from trieline.learner.ranks import start; "
        "start.FOLLOWER = 'trieline.nothing'; start.Crew(2, torch.device('cpu'))"
    )
    ended = subprocess.run([sys.executable, "-c", crew], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "rank 1 ended with exit code 1 before it met the others: the run ends here" in ended.stderr


def test_a_started_rank_ends_with_a_rank_0_that_is_killed_before_it_met_it(tmp_path: Path) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def rank_0() -> None:
        sender.send(_start(1, 2, tmp_path / "store").pid)
        time.sleep(600)

    starter = multiprocessing.get_context("fork").Process(target=rank_0)
    starter.start()
    other = receiver.recv()
    starter.kill()
    starter.join()
    expect_gone(other)


def test_the_variables_of_torchrun_say_the_place() -> None:
    whole = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    place = place_of(whole)
    assert place is not None
    assert (place.rank, place.size, place.local_rank) == (5, 8, 1)
    assert place_of({}) is None
    assert place_of({"RANK": "5"}) is None
    with pytest.raises(LearnerError, match="got none of LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        place_of({"RANK": "5", "WORLD_SIZE": "8"})
    with pytest.raises(LearnerError, match="expected numbers in RANK, WORLD_SIZE, LOCAL_RANK"):
        place_of(whole | {"RANK": "first"})


def test_gathering_once_a_step_needs_ranks() -> None:
    with pytest.raises(LearnerError, match=r"learner\.gather = 'step' has no effect with ranks = 1"):
        msgspec.structs.replace(GROUP, gather="step").validate()
    msgspec.structs.replace(GROUP, gather="step", ranks=2).validate()
