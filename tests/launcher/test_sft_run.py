"""`trieline sft` on the tiny model: its data, and a run that learns and goes on where it stopped."""

import json
import logging
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from trieline.actors.errors import ConversationError
from trieline.command_line import main
from trieline.config import Config, ConfigError, load_config
from trieline.launcher.learner_program import run_learner_program
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.sft_run import DATA_FOLDER, loss_line, resume_sft, start_sft
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.config import OptimizerConfig
from trieline.learner.model.compute_device import choose_device
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model.tree_forward import load_tree_model
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.update.train_step import accumulate_gradients
from trieline.wire.errors import JournalError
from trieline.wire.journal import Journal, read_journal


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


def config_for(tmp_path: Path, *, dtype: str = "float32", **learner: object) -> Config:
    settings = ["model.path=builtin:tiny", f"model.dtype={dtype}", f"run.folder={tmp_path / 'runs'}"]
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


@pytest.mark.parametrize("inside", ["", DATA_FOLDER])
def test_a_journal_is_data_too(tmp_path: Path, data: Path, inside: str) -> None:
    first, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=0.0, epochs=1)
    _, again = start_sft(
        config_for(tmp_path), files=[], journals=[folder.path / inside], min_return=0.0, epochs=2
    )
    assert again.load_config().learner.steps == 2 * first.learner.steps
    assert again.path != folder.path
    assert len(list(read_journal(again.path / DATA_FOLDER))) == 16


def test_a_journal_of_another_model_s_tokens_is_refused(tmp_path: Path, data: Path) -> None:
    _, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=0.0, epochs=1)
    other = tmp_path / "other"
    with closing(Journal(other)) as journal:
        for delivery in read_journal(folder.path / DATA_FOLDER):
            tree = replace(delivery.tree, token_ids=delivery.tree.token_ids + 49_000)
            journal.append(msgspec.structs.replace(delivery, tree=tree))
    with pytest.raises(ConfigError, match=r"got another's in .*other: expected token_ids in \[0, 260\), got"):
        start_sft(config_for(tmp_path), files=[], journals=[other], min_return=0.0, epochs=1)


def test_a_journal_of_another_tokenizer_is_refused(tmp_path: Path, data: Path) -> None:
    _, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=0.0, epochs=1)
    model = tmp_path / "model"
    shutil.copytree(prepare_model("builtin:tiny"), model)
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    (model / "tokenizer.json").write_text(text.replace("<pad>", "<gap>"), encoding="utf-8")
    config = config_for(tmp_path)
    config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, path=str(model)))
    with pytest.raises(JournalError, match="expected a journal of the model's own tokenizer"):
        start_sft(config, files=[], journals=[folder.path], min_return=0.0, epochs=1)


@pytest.mark.parametrize("copied", [False, True])
def test_a_run_that_was_moved_goes_on_with_its_data(tmp_path: Path, data: Path, copied: bool) -> None:
    config, folder = start_sft(
        config_for(tmp_path, checkpoint_every=1), files=[data], journals=[], min_return=-np.inf, epochs=1
    )
    half = msgspec.structs.replace(config, learner=msgspec.structs.replace(config.learner, steps=2))
    assert run_learner_program(half, folder, resume=False) == 0
    place = tmp_path / "elsewhere [2]"
    if copied:
        shutil.copytree(folder.path, place)
        shutil.rmtree(folder.path / DATA_FOLDER)
    else:
        shutil.move(folder.path, place)
    moved = RunFolder.open(str(place))
    config = resume_sft(moved)
    assert config.learner.replay == str(place / DATA_FOLDER)
    assert moved.load_config() == config
    assert run_learner_program(config, moved, resume=True) == 0
    assert [r["step"] for r in moved.read_metrics()] == [1, 2, 3, 4]


def test_a_run_goes_on_from_another_folder_than_it_was_started_in(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepare_model("builtin:tiny"), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    config = config_for(tmp_path)
    config = msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, path="model"),
        run=msgspec.structs.replace(config.run, folder="runs"),
    )
    _, folder = start_sft(config, files=[data], journals=[], min_return=-np.inf, epochs=1)
    again = resume_sft(folder)
    assert (again.model.path, again.run.folder) == (str(tmp_path / "model"), str(tmp_path / "runs"))


def test_a_run_goes_on_in_the_precision_that_its_first_machine_chose(tmp_path: Path, data: Path) -> None:
    config = config_for(tmp_path, dtype="auto")
    started, folder = start_sft(config, files=[data], journals=[], min_return=-np.inf, epochs=1)
    assert started.model.dtype == dtype_name(choose_dtype("auto", choose_device("auto")))
    assert resume_sft(folder).model == started.model


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 1.5, 1.0], "loss 2.0000 at the first step, 1.0000 at the last"),
        ([None, 1.5, None], "loss 1.5000 at the first step, 1.5000 at the last"),
        ([None], "no step had a finite loss"),
        ([], "no step had a finite loss"),
    ],
)
def test_what_came_of_a_run_is_said_whatever_its_losses(losses: list[float | None], said: str) -> None:
    assert loss_line([{"step": n, "loss/policy": loss} for n, loss in enumerate(losses)]) == said


def test_data_that_are_not_there_are_told_before_the_model_is_fetched(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    config = msgspec.structs.replace(
        config, model=msgspec.structs.replace(config.model, path=str(tmp_path / "none"))
    )
    for name in ("files", "journals"):
        given: dict[str, Any] = {"files": [], "journals": [], name: [tmp_path / "missing"]}
        with pytest.raises(ConfigError, match=r"at .*missing, found nothing there"):
            start_sft(config, **given, min_return=-np.inf, epochs=1)


def test_another_kind_of_run_is_not_resumed(tmp_path: Path) -> None:
    folder = RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path}"]))
    with pytest.raises(
        ConfigError, match=r"expected a run of trieline sft, got .*, which has no folder data"
    ):
        resume_sft(folder)


def test_training_does_not_go_on_with_a_run_of_fine_tuning(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = start_sft(config_for(tmp_path), files=[data], journals=[], min_return=-np.inf, epochs=1)
    capsys.readouterr()
    assert main(["train", "--resume", str(folder.path)]) == 2
    assert f"got one of: trieline sft --resume {folder.path}" in capsys.readouterr().err


def test_what_is_odd_in_a_file_is_said_and_the_rest_trained(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    shutil.copytree(prepare_model("builtin:tiny"), model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 30}))
    config = config_for(tmp_path)
    config = msgspec.structs.replace(
        config, model=msgspec.structs.replace(config.model, path=str(model), template_kwargs={"quiet": True})
    )
    lines = data.read_bytes().splitlines(keepends=True)
    data.write_bytes(b"\xef\xbb\xbf" + b"".join([*lines[:20], b"{}\n", *lines[20:]]))
    arguments: dict[str, Any] = {"files": [data], "journals": [], "min_return": -np.inf, "epochs": 1}
    with caplog.at_level(logging.WARNING, logger="trieline"):
        start_sft(config, **arguments, max_unusable=1)
    assert (
        "chats.jsonl: 48 conversations; lines left out (1): line 21: Object missing required field `messages`"
        in caplog.text
    )
    assert "longer than the 30 tokens that the model was made for (32): line 1: 37 tokens" in caplog.text
    with pytest.raises(ConversationError, match="line 21"):
        start_sft(config, **arguments, max_unusable=0)


@pytest.mark.end_to_end
def test_paths_are_printed_as_they_are(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        f"--set={s}"
        for s in (
            "model.path=builtin:tiny",
            f"run.folder={tmp_path / 'runs [old]'}",
            "learner.trees_per_step=16",
        )
    ]
    assert main(["sft", str(data), *settings]) == 0
    assert f"run folder: {tmp_path / 'runs [old]'}/sft-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft"], "expected conversations to train on"),
        (["sft", "x.jsonl", "--min-return", "1"], "--min-return has no effect without --journal"),
        (["sft", "x.jsonl", "--epochs", "0"], "--epochs of at least 1, got 0"),
        (["sft", "x.jsonl", "--max-unusable", "-1"], "--max-unusable of at least 0, got -1"),
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
