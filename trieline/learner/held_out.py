"""The evaluations of a run: asked for when they are due, written when they are complete."""

import json
import logging
from pathlib import Path

from trieline.common.folders import write_whole
from trieline.learner.errors import StopRequested
from trieline.learner.intake.evaluation import Evaluations, FinishedEvaluation
from trieline.learner.keeping.metrics import MetricsLog

log = logging.getLogger(__name__)


class HeldOut:
    """Evaluations beside training. Those before the first step and after the last are of one version."""

    def __init__(self, evaluations: Evaluations, *, folder: Path, metrics: MetricsLog, every: int) -> None:
        """Reports go to `folder/step_N.json`. `every`: steps between two evaluations, 0: none in between."""
        self._evaluations = evaluations
        self._folder = folder
        self._metrics = metrics
        self._every = every
        self._before_training = False
        self._asked_after: int | None = None
        """The step after which the latest one was asked for."""

    def begin(self) -> None:
        """Measure the weights that the run begins with: they stay until `before_step` is over."""
        self._start(0)
        self._before_training = True

    def before_step(self) -> None:
        """New weights are about to be made: wait for what measures the first ones. Raises StopRequested."""
        if self._before_training:
            self._finish()
            self._before_training = False

    def after_step(self, step: int) -> None:
        """Write what is complete; ask for an evaluation if one is due."""
        if (finished := self._evaluations.poll()) is not None:
            self._write(finished)
        if self._every == 0 or step % self._every:
            return
        if self._evaluations.running:
            log.warning("no evaluation after step %d: an earlier one still runs", step)
        else:
            self._start(step)

    def end(self, step: int) -> None:
        """Measure the last weights, unless that was asked for already, and wait for the figures."""
        try:
            self._finish()
            if self._asked_after != step:
                self._start(step)
                self._finish()
        except StopRequested:
            log.info("the evaluation after step %d is left out: asked to stop", step)

    def _start(self, step: int) -> None:
        self._evaluations.start(step)
        self._asked_after = step

    def _finish(self) -> None:
        if (finished := self._evaluations.wait()) is not None:
            self._write(finished)

    def _write(self, finished: FinishedEvaluation) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        report = json.dumps(finished.report.to_dict(), indent=1)
        write_whole(self._folder / f"step_{finished.step}.json", report.encode())
        figures = finished.report.metrics() | {"time/evaluate": finished.seconds}
        self._metrics.write(finished.step, figures)
