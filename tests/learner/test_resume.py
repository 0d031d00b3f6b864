"""Whole runs from a recorded journal, through `run_learner`, with the real tiny model and real files."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trieline.learner.config import LearnerConfig, LoraConfig, OptimizerConfig
from trieline.learner.keeping.adapter_folder import find_adapters, merge_adapters
from trieline.learner.keeping.checkpoint import latest_checkpoint
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.process import LearnerRun, run_learner
from trieline.wire.config import CurriculumConfig, EnvConfig, LinksConfig, ModelConfig
from trieline.wire.journal_header import JournalHeader, write_header

ENV = EnvConfig(id="test/Random-v0", curriculum=CurriculumConfig(levels=[0, 1], promote_at=0.01))
GROUP = LearnerConfig(
    trees_per_step=2,
    steps=4,
    optimizer=OptimizerConfig(lr=1e-3, schedule="cosine"),
    objective=ObjectiveConfig(advantage="group"),
    promotion_episodes=4,
    threads=1,
)
VTRACE = msgspec.structs.replace(
    GROUP, objective=ObjectiveConfig(advantage="vtrace", loss="vtrace_pg", entropy_scaling="sequence")
)

LORA = msgspec.structs.replace(VTRACE, lora=LoraConfig(rank=4))
EIGHT_BIT = msgspec.structs.replace(
    VTRACE, optimizer=msgspec.structs.replace(VTRACE.optimizer, states="8bit")
)


def replay(
    config: LearnerConfig,
    recorded: Path,
    model: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    dtype: Any = "float32",
) -> int:
    return run_learner(
        LearnerRun(
            config=msgspec.structs.replace(config, replay=str(recorded)),
            model=ModelConfig(path=str(model), dtype=dtype),
            envs=[ENV],
            links=LinksConfig(),
            run_dir=run_dir,
            seed=3,
            resume=resume,
        )
    )


def checkpoint_tensors(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / f"step_{step}"
    return {name: t for path in sorted(folder.rglob("*.safetensors")) for name, t in load_file(path).items()}


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (GROUP, "float32"),
        (VTRACE, "bfloat16"),
        (LORA, "bfloat16"),
        pytest.param(EIGHT_BIT, "bfloat16", marks=pytest.mark.long),
    ],
    ids=["float32", "bfloat16", "adapters", "moments in 8 bits"],
)
def test_2k_steps_equal_k_steps_resumed_for_k_bit_for_bit(
    config: LearnerConfig, dtype: str, recorded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    if config.optimizer.states == "8bit":
        pytest.importorskip("bitsandbytes")
    one, two = tmp_path / "one", tmp_path / "two"
    assert replay(config, recorded, tiny_folder, one, dtype=dtype) == 0
    # The first half ends as a run that is stopped: the schedule is that of four steps.
    short = msgspec.structs.replace(config, checkpoint_every=2, keep_checkpoints=9)
    assert replay(short, recorded, tiny_folder, two, dtype=dtype) == 0
    for name in ("step_4", "step_3"):
        path = two / "checkpoints" / name
        if path.exists():
            path.rename(tmp_path / name)
    assert latest_checkpoint(two / "checkpoints") == two / "checkpoints" / "step_2"
    assert replay(config, recorded, tiny_folder, two, resume=True, dtype=dtype) == 0
    straight, resumed = checkpoint_tensors(one, 4), checkpoint_tensors(two, 4)
    assert set(straight) == set(resumed)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    start = checkpoint_tensors(two, 2)
    assert any(not torch.equal(straight[name], start[name]) for name in start)
    states = [json.loads((d / "checkpoints/step_4/trainer/state.json").read_text()) for d in (one, two)]
    assert states[0] == states[1]
    assert states[0]["records_taken"] == 9, "eight trees of four steps, and the broken one"
    figures = [[r["loss/total"] for r in metrics_of(d)] for d in (one, two)]
    assert figures[0] == figures[1]
    assert [r["step"] for r in metrics_of(two)] == [1, 2, 3, 4]


def test_a_checkpoint_is_a_hugging_face_folder(recorded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(GROUP, steps=1)
    assert replay(config, recorded, tiny_folder, tmp_path, dtype="bfloat16") == 0
    folder = tmp_path / "checkpoints/step_1/model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())
    assert (
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [{"role": "user", "content": "hi"}], tokenize=False
        )
        == "<|im_start|>hi<|im_sep|>"
    )


def test_adapters_alone_are_saved_and_make_a_model_on_request(
    recorded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert replay(msgspec.structs.replace(LORA, steps=2), recorded, tiny_folder, run) == 0
    checkpoint = run / "checkpoints/step_2"
    assert sorted(p.name for p in checkpoint.iterdir()) == ["adapter", "trainer"]
    merge_adapters(find_adapters(checkpoint), tmp_path / "merged")
    ids = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    untrained = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(checkpoint / "adapter"))(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert (adapted - untrained).abs().max() > 1e-4
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    # Of whole weights it is no run to go on with.
    assert replay(VTRACE, recorded, tiny_folder, run, resume=True) == 1


def test_metrics_have_their_names(recorded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert replay(GROUP, recorded, tiny_folder, tmp_path) == 0
    records = metrics_of(tmp_path)
    names = {name for record in records for name in record}
    assert {
        "reward/mean",
        "reward/test/Random-v0/mean",
        "entropy/mean",
        "clip_ratio/low",
        "optim/lr",
        "optim/grad_norm",
        "off_policy/staleness/mean",
        "off_policy/staleness/max",
        "frac_reward_zero_std",
        "time/step",
        "time/wait_for_batch",
        "time/forward_backward",
        "time/sync_weights",
        "time/optimizer",
        "perf/throughput",
        "completions/mean_length",
        "completions/clipped_ratio",
        "tree/token_ratio",
        "curriculum/test/Random-v0/level",
        "policy_version",
    } <= names
    assert any(name.startswith("errored_rollouts/test/Random-v0/") for name in names)
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_recording_that_ends_early_ends_the_run(recorded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(GROUP, steps=50, objective=ObjectiveConfig(skip_zero_std=False))
    assert replay(config, recorded, tiny_folder, tmp_path) == 0
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/step_6"
    assert [r["batch/trees"] for r in metrics_of(tmp_path)] == [2.0] * 5 + [1.0], "eleven trees"
    # There is nothing to go on with.
    assert replay(config, recorded, tiny_folder, tmp_path, resume=True) == 0
    assert [r["step"] for r in metrics_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_recording_goes_on_in_the_middle_of_its_short_step(
    recorded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    config = msgspec.structs.replace(GROUP, steps=3, trees_per_step=5)
    assert replay(config, recorded, tiny_folder, one) == 0
    assert replay(msgspec.structs.replace(config, checkpoint_every=2), recorded, tiny_folder, two) == 0
    (two / "checkpoints/step_3").rename(tmp_path / "step_3")
    assert replay(config, recorded, tiny_folder, two, resume=True) == 0
    straight, resumed = checkpoint_tensors(one, 3), checkpoint_tensors(two, 3)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert metrics_of(two)[-1]["completions/mean_length"] == metrics_of(one)[-1]["completions/mean_length"]


def test_a_recording_of_another_tokenizer_is_refused(
    recorded: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    another = tmp_path / "another"
    shutil.copytree(recorded, another)
    write_header(another, JournalHeader(vocab_size=260, tokenizer="b" * 64))
    assert replay(GROUP, another, tiny_folder, tmp_path / "run") == 1
    assert "expected a journal of the model's own tokenizer" in caplog.text


def test_what_can_not_run_says_why(
    recorded: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert replay(GROUP, tmp_path / "none", tiny_folder, tmp_path / "a") == 1
    assert "expected a journal" in caplog.text
    assert replay(GROUP, recorded, tmp_path / "no-model", tmp_path / "b") == 1
    assert "expected a model folder, a hub name" in caplog.text
    assert replay(msgspec.structs.replace(GROUP, steps=1), recorded, tiny_folder, tmp_path / "c") == 0
    assert replay(GROUP, recorded, tiny_folder, tmp_path / "c") == 1
    assert "holds a run already" in caplog.text
    caplog.clear()
    weights = tmp_path / "c/checkpoints/step_1/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert replay(GROUP, recorded, tiny_folder, tmp_path / "c", resume=True) == 1
    assert "corrupt file: expected" in caplog.text
    assert str(weights) in caplog.text


def test_weights_that_are_not_finite_stop_the_run(
    recorded: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(GROUP, steps=20, optimizer=OptimizerConfig(lr=1e30), max_skipped_steps=1)
    assert replay(config, recorded, tiny_folder, tmp_path) == 1
    assert "the step is skipped" in caplog.text
    assert "2 steps in a row had a gradient that is not finite" in caplog.text
