"""The main loop: collect, step, publish, say what happened, and now and then a checkpoint.

The state moves on in one place, after the step (`_advance`): whatever ends the loop between two steps, what
a checkpoint then says is whole. So an error of anything but an update itself ends a run with a checkpoint.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trieline.common.tally import Tally
from trieline.learner.config import EvaluationConfig, LearnerConfig
from trieline.learner.errors import StopRequested, TrainingError
from trieline.learner.held_out import HeldOut
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.demonstrations import Demonstrations
from trieline.learner.intake.evaluation import Evaluations
from trieline.learner.intake.tree_metrics import (
    batch_metrics,
    failure_metrics,
    level_metrics,
    num_sampled_tokens,
    scored_returns,
    text_sample,
)
from trieline.learner.intake.tree_source import OutOfTrees, StepTrees, TreeSource
from trieline.learner.keeping.checkpoint import TrainerState, save_checkpoint
from trieline.learner.keeping.metrics import MetricsLog
from trieline.learner.live_links import LiveLinks
from trieline.learner.probe import CANARY, MismatchWatch
from trieline.learner.ranks.orders import Publish, Save
from trieline.learner.update.learner import Learner
from trieline.learner.warm_start import warm_start

log = logging.getLogger(__name__)


# A measurement that ends a warm start is made often, so it is small: its standard error at 0.5 is 0.06.
WARM_START_EPISODES = 64
EVALUATIONS_FOLDER = "eval"


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveParts:
    """What a run with live actors and policy servers has, and a replay has not."""

    links: LiveLinks
    evaluations: Evaluations
    demonstrations: Demonstrations
    evaluation: EvaluationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a run is made of."""

    learner: Learner
    source: TreeSource
    curriculum: Curriculum
    run_dir: Path
    model_folder: Path
    metrics: MetricsLog
    stop: threading.Event
    live: LiveParts | None = None
    """None in a replay."""
    watch: MismatchWatch | None = None
    """None in a replay."""
    state: TrainerState | None = None
    """Of the checkpoint that the run goes on from, if any."""


class Training:
    """One run from where it stands to its end."""

    def __init__(self, parts: Parts) -> None:
        self._learner = parts.learner
        self._source = parts.source
        self._curriculum = parts.curriculum
        self._run_dir = parts.run_dir
        self._model_folder = parts.model_folder
        self._metrics = parts.metrics
        self._live = parts.live.links if parts.live else None
        self._live_parts = parts.live
        self._held_out = _held_out(parts)
        self._watch = parts.watch
        self._stop = parts.stop
        state = parts.state
        self.step = state.step if state else 0
        self._records_taken = state.records_taken if state else 0
        self._warm_started = state.warm_started if state else False
        self._saved = self._place() if state else None
        self._ended_at = time.monotonic()

    @property
    def config(self) -> LearnerConfig:
        return self._learner.config

    def run(self) -> None:
        """Train until the last step, the time limit, the end of the recording, or a request to stop.

        Raises:
            LearnerError: the run can't go on; what it has learned so far is saved.
        """
        reason = "training is over"
        try:
            self._begin()
            self._loop()
        except StopRequested:
            reason = "the learner was asked to stop"
        except Exception:
            self._save_after_error()
            raise
        self.checkpoint()
        if self._live is not None:
            if self._held_out is not None and not self._stop.is_set():
                self._held_out.end(self.step)
            self._live.stop_actors(reason)
        log.info("%s at step %d of %d", reason, self.step, self.config.steps)

    def _begin(self) -> None:
        if self.config.warm_start is not None and not self._warm_started:
            self._warm_start()
        if self.step == 0 and self._held_out is not None:
            self._held_out.begin()

    def _loop(self) -> None:
        minutes = self.config.max_minutes
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._ended_at = time.monotonic()
        while self.step < self.config.steps:
            if deadline is not None and time.monotonic() >= deadline:
                log.info("the time limit of %g minutes is reached", minutes)
                return
            try:
                self._make_step()
            except OutOfTrees:
                log.info("the recorded journal ends after step %d", self.step)
                return

    def _make_step(self) -> None:
        began = self._ended_at
        collecting = time.monotonic()
        trees = self._source.collect(self._learner.policy_version)
        collected = time.monotonic()
        if self._held_out is not None:
            self._held_out.before_step()
        version = self._learner.policy_version
        of_this_run = self._live is not None and not trees.preloaded
        report = self._learner.step(trees.trees, expect_agreement=of_this_run)
        self._advance(trees, version)
        computed = time.monotonic()
        try:
            if report.applied:
                self._publish()
        finally:
            # Also when a late server ends the run: the step is made.
            now = self._ended_at = time.monotonic()
            times = {
                "time/step": now - began,
                "time/wait_for_batch": collected - collecting,
                "time/sync_weights": now - computed,
            }
            self._record(trees, report.metrics, times, version)
        if self._watch is not None:
            self._look(self._watch, compared=of_this_run and self._learner.check_mismatch(report.metrics))
        last = self.step == self.config.steps
        if self._held_out is not None and not last:
            self._held_out.after_step(self.step)
        if not last and self.step % self.config.checkpoint_every == 0:
            self.checkpoint()

    def _look(self, watch: MismatchWatch, *, compared: bool) -> None:
        began = time.monotonic()
        figures = watch.look(compared=compared)
        if figures:
            figures.add_maximum("time/canary", time.monotonic() - began)
            self._metrics.write(self.step, figures)
            self._learner.check_mismatch(figures, CANARY)

    def _advance(self, trees: StepTrees, version: int) -> None:
        self.step += 1
        self._records_taken += trees.num_records
        for tree in trees.taken:
            self._curriculum.record(
                tree.env_id,
                tree.level,
                scored_returns(tree),
                task_id=tree.task_id,
                policy_version=version,
            )
        for task in trees.given_up:
            self._curriculum.record(task.env_id, task.level, [], task_id=task.task_id)

    def _publish(self) -> None:
        """New weights to the policy servers. New trees are asked for only when all of them serve these."""
        if self._live is not None:
            learner = self._learner
            with learner.together(Publish()):
                self._live.publish(learner.policy_version, learner.weights(), learner.adapter_config)
            self._live.wait_loaded(
                learner.policy_version,
                late_s=self.config.weights_timeout_s,
                absent_s=self.config.startup_timeout_s,
            )

    def _record(self, trees: StepTrees, tally: Tally, times: Mapping[str, float], version: int) -> None:
        tally.add(batch_metrics(trees.trees, policy_version=version))
        tally.add(failure_metrics(trees.taken, trees.given_up))
        tally.add(level_metrics(trees.taken))
        tally.add_total("off_policy/too_old_trees", trees.too_old)
        tally.add_total("errored_trees", trees.broken + len(trees.given_up))
        tally.add_total("tokens/sampled", num_sampled_tokens(trees.taken))
        if self.config.fill_batches > 1:
            tally.add_total("fill/idle_trees", len(trees.idle))
            tally.add_total("fill/idle_tokens", num_sampled_tokens(trees.idle))
        values: dict[str, Any] = {
            "policy_version": self._learner.policy_version,
            **tally.figures(),
            **times,
            **self._curriculum.figures(),
        }
        if self._live is not None:
            values["perf/actor_tokens_per_second"] = values["tokens/sampled"] / times["time/step"]
            values["off_policy/buffered_trees"] = self._source.buffered()
            values |= self._live.metrics()
        sample = text_sample(trees.taken, self.step)
        if sample is not None:
            values["sample"] = sample
        self._metrics.write(self.step, values)

    def _warm_start(self) -> None:
        config, parts = self.config.warm_start, self._live_parts
        assert config is not None
        assert parts is not None, "a replay has no warm start: checked with the settings"
        steps = warm_start(
            self._learner,
            config,
            made=self._learner.policy_version,  # nothing else has made a version before the first step
            demonstrations=parts.demonstrations.collect,
            measure=lambda: self._sampled_success(parts),
            record=lambda values: self._metrics.write(0, values),
            stop=self._stop,
        )
        log.info("the warm start is over after %d steps", steps)
        self._warm_started = True
        self.checkpoint()

    def _sampled_success(self, parts: LiveParts) -> Mapping[str, float]:
        """By environment, of the present weights as training samples them: what a warm start ends by."""
        self._publish()
        settings = msgspec.structs.replace(
            parts.evaluation,
            episodes=WARM_START_EPISODES,
            attempts=1,
            temperature=self.config.objective.temperature,
            transcripts=0,
        )
        parts.evaluations.start(self.step, settings)
        finished = parts.evaluations.wait()
        if finished is None:
            msg = "the sampled success of a warm start could not be measured: see the warning before"
            raise TrainingError(msg)
        return {env.env_id: env.mean_return or 0.0 for env in finished.report.envs}

    def _save_after_error(self) -> None:
        """A checkpoint of a run that an error ends, if it is worth going on from."""
        nothing_yet = self._saved is None and self._learner.policy_version == 0
        # Steps that are skipped say that the weights have gone astray: an earlier checkpoint is better.
        if nothing_yet or not self._learner.is_whole or self._learner.skipped_in_a_row:
            return
        try:
            self.checkpoint()
        except Exception:
            log.exception("and no checkpoint could be written")

    def checkpoint(self) -> None:
        """Save where the run stands, unless that is saved already."""
        if self._saved == self._place():
            return
        if self._live is not None:
            self._live.sync_journal()
        state = TrainerState(
            step=self.step,
            policy_version=self._learner.policy_version,
            records_taken=self._records_taken,
            warm_started=self._warm_started,
            skipped_in_a_row=self._learner.skipped_in_a_row,
            curriculum=self._curriculum.state_dict(),
        )
        with self._learner.together(Save()):
            save_checkpoint(
                self._run_dir / "checkpoints",
                state,
                source_model=self._model_folder,
                weights=self._learner.masters(),
                trainer=self._learner.trainer_tensors(),
                keep=self.config.keep_checkpoints,
                adapter_config=self._learner.adapter_config,
                ranks=self._learner.ranks,
            )
        self._saved = self._place()

    def _place(self) -> tuple[int, int, bool]:
        """Where the run stands. The steps of a warm start count as versions alone."""
        return self.step, self._learner.policy_version, self._warm_started


def _held_out(parts: Parts) -> HeldOut | None:
    if parts.live is None or not parts.live.evaluation.episodes:
        return None
    return HeldOut(
        parts.live.evaluations,
        folder=parts.run_dir / EVALUATIONS_FOLDER,
        metrics=parts.metrics,
        every=parts.live.evaluation.every,
    )
