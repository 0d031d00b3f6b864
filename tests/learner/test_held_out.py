"""When a run measures held-out success."""

from pathlib import Path

from tests.learner.intake.fake_receiver import FakeReceiver
from tests.learner.intake.test_evaluation import evaluations, tree_for
from trieline.learner.held_out import HeldOut
from trieline.learner.keeping.metrics import MetricsLog
from trieline.wire.messages import Assignment


class Actors(FakeReceiver):
    """Play at once."""

    def offer(self, assignments: list[Assignment]) -> None:
        super().offer(assignments)
        for asked in assignments:
            self.come(asked.assignment_id, tree_for(asked))


def test_the_last_weights_are_measured_once(tmp_path: Path) -> None:
    receiver, metrics = Actors(), MetricsLog(tmp_path, step=0)
    held_out = HeldOut(evaluations(receiver), folder=tmp_path / "eval", metrics=metrics, every=2)
    held_out.begin()
    held_out.before_step()
    tasks = len(receiver.offered)
    held_out.after_step(1)
    held_out.after_step(2)  # a time limit ends the run here
    held_out.end(2)
    metrics.close()
    assert len(receiver.offered) == 2 * tasks
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {"step_0.json", "step_2.json"}


def test_the_last_weights_are_measured_if_they_are_later_than_the_latest(tmp_path: Path) -> None:
    receiver, metrics = Actors(), MetricsLog(tmp_path, step=0)
    held_out = HeldOut(evaluations(receiver), folder=tmp_path / "eval", metrics=metrics, every=2)
    held_out.after_step(2)
    held_out.end(3)
    metrics.close()
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {"step_2.json", "step_3.json"}
