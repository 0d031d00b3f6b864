"""`trieline sft` on the tiny model: its data, and a run that learns and goes on where it stopped."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from trieline.command_line import main
from trieline.config import Config, ConfigError, load_config
from trieline.launcher.learner_program import run_learner_program
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.sft_run import DATA_FOLDER, start_sft
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.config import OptimizerConfig
from trieline.learner.model.tree_forward import load_tree_model
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.update.train_step import accumulate_gradients
from trieline.wire.journal import read_journal


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixteen openings, three answers each, two of which share their first reply."""
    lines = []
    for i in range(16):
        asked = {"role": "user", "content": f"Say {i}."}
        first = [asked, {"role": "assistant", "content": f"It is {i}."}]
        more = {"role": "user", "content": "And now?"}
        for last in ("Still so.", "No longer."):
            lines.append([*first, more, {"role": "assistant", "content": last}])
        lines.append([asked, {"role": "assistant", "content": "No."}])
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    return path


def config_for(tmp_path: Path, **learner: object) -> Config:
    settings = ["model.path=builtin:tiny", "model.dtype=float32", f"run.folder={tmp_path / 'runs'}"]
    settings += [f"learner.{name}={json.dumps(value)}" for name, value in learner.items()]
    config = load_config(["sft"], ["learner.trees_per_step=4", *settings, "learner.threads=1"])
    optimizer = OptimizerConfig(lr=3e-3)
    return msgspec.structs.replace(
        config, learner=msgspec.structs.replace(config.learner, optimizer=optimizer)
    )


def test_the_loss_falls_and_a_run_goes_on(tmp_path: Path, data: Path) -> None:
    config, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=-np.inf, epochs=3)
    assert config.learner.steps == 12
    half = msgspec.structs.replace(config, learner=msgspec.structs.replace(config.learner, steps=6))
    assert run_learner_program(half, folder, resume=False) == 0
    assert run_learner_program(config, folder, resume=True) == 0
    records = folder.read_metrics()
    assert [r["step"] for r in records] == list(range(1, 13))
    losses = [r["loss/policy"] for r in records]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2])
    assert records[0]["tree/saving"] > 1.5
    assert (folder.path / "checkpoints" / "step_12" / "model" / "model.safetensors").is_file()
    assert folder.load_config().learner.replay == str(folder.path / DATA_FOLDER)


def test_every_conversation_is_trained_on(tmp_path: Path, data: Path) -> None:
    config, folder = start_sft(
        config_for(tmp_path, trees_per_step=5), files=[data], journals=[], min_return=-np.inf, epochs=1
    )
    assert config.learner.steps == 4
    assert run_learner_program(config, folder, resume=False) == 0
    assert [r["batch/trees"] for r in folder.read_metrics()] == [5, 5, 5, 1]


def test_the_loss_is_that_of_separate_conversations(tmp_path: Path, data: Path) -> None:
    config, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=-np.inf, epochs=1)
    trees = [delivery.tree for delivery in read_journal(folder.path / DATA_FOLDER)]
    model = load_tree_model(prepare_model(config.model.path), torch.float32, False)
    batch = prepare_batch(trees, config.learner.objective, max_tokens=8192)
    got = accumulate_gradients(model, batch, config.learner.objective, policy_version=0)["loss/policy"]
    losses = []
    model.hf_model.set_attn_implementation("sdpa")
    for tree in trees:
        by_policy = np.repeat(tree.sampled, np.diff(tree.node_offsets))
        for leaf in range(tree.num_leaves):
            index = tree.sequence_index(leaf)
            ids = torch.from_numpy(tree.token_ids[index].astype(np.int64))
            with torch.no_grad():
                logprobs = model.hf_model(ids[None]).logits[0, :-1].log_softmax(-1)
            losses += (-logprobs.gather(1, ids[1:, None])[by_policy[index][1:], 0]).tolist()
    # Float32, sums in another order.
    assert got == pytest.approx(np.mean(losses), rel=1e-5)


def test_data_that_fill_no_step_are_refused(tmp_path: Path, data: Path) -> None:
    config = config_for(tmp_path)
    learner = msgspec.structs.replace(config.learner, trees_per_step=64)
    with pytest.raises(ConfigError, match=r"trees_per_step = 64 .* got 16 trees"):
        start_sft(
            msgspec.structs.replace(config, learner=learner),
            files=[data],
            journals=[],
            min_return=-np.inf,
            epochs=1,
        )


def test_a_journal_is_data_too(tmp_path: Path, data: Path) -> None:
    first, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=0.0, epochs=1)
    _, again = start_sft(
        config_for(tmp_path), files=[], journals=[folder.path / DATA_FOLDER], min_return=0.0, epochs=2
    )
    assert again.load_config().learner.steps == 2 * first.learner.steps
    assert again.path != folder.path
    assert len(list(read_journal(again.path / DATA_FOLDER))) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft"], "expected conversations to train on"),
        (["sft", "x.jsonl", "--min-return", "1"], "--min-return has no effect without --journal"),
        (["sft", "x.jsonl", "--epochs", "0"], "--epochs of at least 1, got 0"),
        (["sft", "x.jsonl", "--resume", "y"], "expected nothing else with it"),
        (["sft", "x.jsonl", "--config", "tiny"], "expected learner.objective.loss = 'sft', got 'ppo_clip'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_run_folder_can_be_reserved_and_written(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    folder = RunFolder.reserve(config)
    assert not folder.config.exists()
    folder.write(config)
    assert folder.load_config() == config
