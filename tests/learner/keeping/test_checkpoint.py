import json
import shutil
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch

from trieline.learner.config import LearnerConfig
from trieline.learner.errors import CheckpointError
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.tree_source import ReplaySource, StepSize
from trieline.learner.keeping.checkpoint import (
    TrainerState,
    latest_checkpoint,
    read_model_weights,
    read_state,
    read_trainer_tensors,
    save_checkpoint,
    sweep_checkpoints,
)
from trieline.learner.keeping.metrics import MetricsLog
from trieline.learner.training import Parts, Training
from trieline.learner.update.learner import Learner
from trieline.wire.config import EnvConfig

WEIGHTS = {"layer.weight": torch.arange(6, dtype=torch.float32).view(2, 3)}
TRAINER = {"exp_avg": torch.ones(6), "updates": torch.tensor(2)}


def save(run_dir: Path, model: Path, step: int, *, keep: int = 9) -> Path:
    state = TrainerState(
        step=step,
        policy_version=step + 3,
        records_taken=4 * step,
        warm_started=True,
        skipped_in_a_row=1,
        curriculum={"next_id": 5, "envs": {}},
    )
    return save_checkpoint(run_dir, state, source_model=model, weights=WEIGHTS, trainer=TRAINER, keep=keep)


def test_what_was_saved_is_read(tiny_folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path, tiny_folder, 7)
    assert latest_checkpoint(tmp_path) == path == tmp_path / "step_7"
    state = read_state(path)
    assert (state.step, state.policy_version, state.records_taken) == (7, 10, 28)
    assert state.curriculum == {"next_id": 5, "envs": {}}
    assert torch.equal(read_model_weights(path, state)["layer.weight"], WEIGHTS["layer.weight"])
    assert torch.equal(read_trainer_tensors(path, state)["exp_avg"], TRAINER["exp_avg"])
    assert {p.name for p in (path / "model").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((path / "model/config.json").read_text())["dtype"] == "float32"


def test_the_newest_are_kept_and_the_rest_is_cleared(tiny_folder: Path, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (2, 9, 10, 100):
        save(tmp_path, tiny_folder, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10", "step_100"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_100"


def test_a_step_saved_again_replaces_the_first(tiny_folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path, tiny_folder, 1)
    (path / "trainer/state.json").unlink()
    save(tmp_path, tiny_folder, 1)
    assert read_state(path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]


def test_a_crash_while_saving_leaves_no_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path, tmp_path / "no-model", 1)
    assert latest_checkpoint(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_what_killed_learners_left_is_swept(tiny_folder: Path, tmp_path: Path) -> None:
    kept = save(tmp_path, tiny_folder, 1)
    shutil.copytree(kept, tmp_path / ".step_2-unfinished")
    (tmp_path / ".step_3-empty").mkdir()
    # Put aside for another of its step; the first was replaced already, the second never was.
    shutil.copytree(kept, tmp_path / ".step_1-retired-99")
    shutil.copytree(kept, tmp_path / ".step_0-retired-99")
    sweep_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0", "step_1"]
    assert latest_checkpoint(tmp_path) == kept
    read_everything(tmp_path / "step_0")
    sweep_checkpoints(tmp_path / "none")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "trainer/state.json").unlink(), r"state\.json can't be read"),
        (
            lambda p: (p / "trainer/state.json").write_text('{"step": "x"}'),
            r"corrupt checkpoint: .*state\.json",
        ),
        (
            lambda p: (p / "model/model.safetensors").unlink(),
            r"expected the weights in .*model/model\.safetensors",
        ),
        (
            lambda p: (p / "trainer/optimizer.safetensors").write_bytes(b""),
            r"optimizer\.safetensors with CRC-32",
        ),
    ],
)
def test_damage_names_the_file(damage: object, message: str, tiny_folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path, tiny_folder, 1)
    damage(path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        read_everything(path)


def test_another_format_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path, tiny_folder, 1) / "trainer/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(CheckpointError, match="got format 3"):
        read_state(path.parent.parent)


def read_everything(checkpoint: Path) -> None:
    state = read_state(checkpoint)
    read_model_weights(checkpoint, state)
    read_trainer_tensors(checkpoint, state)


def test_a_warm_start_that_went_on_is_saved_again(tiny_folder: Path, tmp_path: Path) -> None:
    """Its steps count as versions: the step stays 0."""
    learner = Learner(LearnerConfig(threads=1), tiny_folder, dtype=torch.float32)
    with closing(MetricsLog(tmp_path, step=0)) as metrics:
        stop = threading.Event()
        size = StepSize(trees_per_step=1, most=1, teaches=lambda tree: True)
        training = Training(
            Parts(
                learner=learner,
                source=ReplaySource(tmp_path, size, start=0, stop=stop),
                curriculum=Curriculum([EnvConfig(id="test/Even-v0")], seed=0, group_size=1),
                run_dir=tmp_path,
                model_folder=tiny_folder,
                metrics=metrics,
                stop=stop,
            )
        )
        training.checkpoint()
        learner.policy_version += 1
        training.checkpoint()
        folder = latest_checkpoint(tmp_path / "checkpoints")
        assert folder is not None
        assert (read_state(folder).step, read_state(folder).policy_version) == (0, 1)
        written = folder.stat().st_ino
        training.checkpoint()
        assert folder.stat().st_ino == written, "nothing new to save"
