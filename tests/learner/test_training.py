"""What the main loop does when something fails: a checkpoint where the state is whole, and only there."""

import math
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.learner.live_parts import records
from tests.trees import random_tree
from trieline.common.tally import Tally
from trieline.learner.config import LearnerConfig, OptimizerConfig
from trieline.learner.errors import TrainingError
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.tree_source import OutOfTrees, StepTrees
from trieline.learner.keeping.checkpoint import latest_checkpoint, read_state
from trieline.learner.keeping.metrics import MetricsLog
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.probe import CANARY, MismatchWatch
from trieline.learner.training import Parts, Training
from trieline.learner.update.learner import Learner
from trieline.learner.update.optimizer import MasterOptimizer, Update
from trieline.wire.config import EnvConfig
from trieline.wire.tree import TrajectoryTree

CONFIG = LearnerConfig(
    steps=9,
    optimizer=OptimizerConfig(lr=1e-3),
    objective=ObjectiveConfig(skip_zero_std=False),
    checkpoint_every=100,
    threads=1,
)


class Source:
    """Two trees a step, and at last an error."""

    def __init__(self, steps: int, error: Exception) -> None:
        rng = np.random.default_rng(0)
        self._trees = [[random_tree(rng, vocab_size=260) for _ in range(2)] for _ in range(steps)]
        self._error = error

    def collect(self, policy_version: int) -> StepTrees:
        if not self._trees:
            raise self._error
        trees: list[TrajectoryTree] = self._trees.pop(0)
        return StepTrees(trees=trees, taken=trees)

    def buffered(self) -> int:
        return 0


class CutOff(MasterOptimizer):
    """Ends in the middle of its third step."""

    def step(self, *, lr: float | None = None) -> Update:
        if self.updates == 2:
            raise MemoryError
        return super().step(lr=lr)


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[MetricsLog]:
    with closing(MetricsLog(tmp_path, step=0)) as log:
        yield log


def training(
    learner: Learner, source: Source, model: Path, run_dir: Path, metrics: MetricsLog, **parts: Any
) -> Training:
    return Training(
        Parts(
            learner=learner,
            source=source,
            curriculum=Curriculum([EnvConfig(id="test/Random-v0")], seed=0, group_size=2),
            run_dir=run_dir,
            model_folder=model,
            metrics=metrics,
            stop=threading.Event(),
            **parts,
        )
    )


def saved_step(run_dir: Path) -> int | None:
    folder = latest_checkpoint(run_dir / "checkpoints")
    return None if folder is None else read_state(folder).step


@pytest.mark.parametrize(
    ("steps", "error", "saved"),
    [
        (3, TrainingError("late"), 3),
        (3, RuntimeError("a fault of ours"), 3),
        (0, TrainingError("late"), None),
    ],
    ids=["late batch", "fault", "nothing yet"],
)
def test_an_error_between_two_steps_ends_the_run_with_a_checkpoint(
    steps: int, error: Exception, saved: int, tiny_folder: Path, tmp_path: Path, metrics: MetricsLog
) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    with pytest.raises(type(error), match=str(error)):
        training(learner, Source(steps, error), tiny_folder, tmp_path, metrics).run()
    assert saved_step(tmp_path) == saved


def test_an_update_that_was_cut_off_is_not_saved(
    tiny_folder: Path, tmp_path: Path, metrics: MetricsLog
) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32, make_optimizer=CutOff)
    run = training(learner, Source(9, OutOfTrees()), tiny_folder, tmp_path, metrics)
    with pytest.raises(MemoryError):
        run.run()
    assert run.step == 2
    assert saved_step(tmp_path) is None


def test_weights_that_have_gone_astray_are_not_saved(
    tiny_folder: Path, tmp_path: Path, metrics: MetricsLog
) -> None:
    config = LearnerConfig(
        steps=9, optimizer=OptimizerConfig(lr=1e30), max_skipped_steps=1, objective=CONFIG.objective
    )
    learner = Learner(config, tiny_folder, dtype=torch.float32)
    with pytest.raises(TrainingError, match="not finite"):
        training(learner, Source(9, OutOfTrees()), tiny_folder, tmp_path, metrics).run()
    assert saved_step(tmp_path) is None


def test_a_checkpoint_that_can_not_be_written_does_not_hide_the_error(
    tiny_folder: Path, tmp_path: Path, metrics: MetricsLog, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("no folder")
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    with pytest.raises(TrainingError, match="late"):
        training(learner, Source(2, TrainingError("late")), tiny_folder, tmp_path, metrics).run()
    assert "no checkpoint could be written" in caplog.text
    assert f"can't write the checkpoint {tmp_path}/checkpoints/step_2" in caplog.text


def test_a_step_whose_server_is_late_is_written_and_saved(
    tiny_folder: Path, tmp_path: Path, metrics: MetricsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    run = training(learner, Source(9, OutOfTrees()), tiny_folder, tmp_path, metrics)

    def publish() -> None:
        if run.step == 2:
            msg = "gave up after 60 s"
            raise TrainingError(msg)

    monkeypatch.setattr(run, "_publish", publish)
    with pytest.raises(TrainingError, match="gave up"):
        run.run()
    assert saved_step(tmp_path) == 2
    assert [r["step"] for r in records(tmp_path)] == [1, 2]


def canary(*means: float | None) -> MismatchWatch:
    """One that says these, one after the other; None: no token could be compared."""
    answers = iter(means)

    def ask() -> Tally:
        figures = Tally()
        if (mean := next(answers)) is not None:
            figures.add_mean(f"{CANARY}/mean", 96 * mean, 96)
        return figures

    return MismatchWatch(ask, every=2)


def test_a_canary_sees_what_old_trees_can_not_tell(
    tiny_folder: Path, tmp_path: Path, metrics: MetricsLog
) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    run = training(
        learner, Source(9, OutOfTrees()), tiny_folder, tmp_path, metrics, watch=canary(1e-9, 1e-9, 0.5)
    )
    with pytest.raises(TrainingError, match=r"mismatch_kl/canary/mean is 0\.5, expected at most 0\.001"):
        run.run()
    assert saved_step(tmp_path) == run.step == 6
    said = {r["step"]: r[f"{CANARY}/mean"] for r in records(tmp_path) if f"{CANARY}/mean" in r}
    assert said == pytest.approx({2: 1e-9, 4: 1e-9, 6: 0.5})


def test_a_watch_that_sees_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    watch = canary(None, 1e-9, None)
    assert [bool(watch.look(compared=c)) for c in (False, True, False, False)] == [False] * 4
    assert "for 2 steps nothing could be compared" in caplog.text
    caplog.clear()
    assert [bool(watch.look(compared=False)) for _ in range(2)] == [False, True]
    assert caplog.text == ""
    never = MismatchWatch(lambda: pytest.fail("asked"), every=0)
    for _ in range(10):
        assert not never.look(compared=False)
    assert "for 10 steps nothing could be compared" in caplog.text
    assert "learner.canary_every = 0" in caplog.text


def test_a_mismatch_of_the_trees_changes_nothing(tiny_folder: Path) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in learner.masters().items()}
    rng = np.random.default_rng(0)
    foreign = [random_tree(rng, vocab_size=260, max_policy_version=0) for _ in range(12)]
    with pytest.raises(TrainingError, match=r"mismatch_kl/mean is .* expected at most 0\.001"):
        learner.step(foreign, expect_agreement=True)
    assert learner.policy_version == 0
    assert learner.is_whole
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.masters().items())
    assert learner.step(foreign).applied


def test_a_few_tokens_are_no_ground_for_an_alarm(tiny_folder: Path) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    few, many = Tally(), Tally()
    few.add_mean("mismatch_kl/mean", 31 * 0.5, 31)
    assert not learner.check_mismatch(Tally())
    assert not learner.check_mismatch(few)
    many.add_mean("mismatch_kl/mean", 32 * 1e-6, 32)
    assert learner.check_mismatch(many)
    many.add_mean("mismatch_kl/mean", math.nan, 1)
    with pytest.raises(TrainingError, match="mismatch_kl/mean is nan"):
        learner.check_mismatch(many)
