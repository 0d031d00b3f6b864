"""The learner process: put the parts together, train, and end in order on a signal."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from trieline.common.errors import TrielineError
from trieline.common.file_lock import file_lock
from trieline.common.signals import on_stop_signal
from trieline.learner.config import EvaluationConfig, LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.intake.accepted import read_accepted
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.demonstrations import Demonstrations
from trieline.learner.intake.evaluation import Evaluations
from trieline.learner.intake.staleness import Pacing
from trieline.learner.intake.tree_source import LiveSource, ReplaySource, TreeSource
from trieline.learner.keeping.checkpoint import (
    TrainerState,
    latest_checkpoint,
    read_model_weights,
    read_state,
    read_trainer_tensors,
)
from trieline.learner.keeping.metrics import MetricsLog
from trieline.learner.live_links import LiveLinks, expectation_of
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.probe import probe
from trieline.learner.training import LiveParts, Training
from trieline.learner.update.learner import Learner
from trieline.wire.config import EnvConfig, LinksConfig, ModelConfig
from trieline.wire.journal import Journal
from trieline.wire.journal_header import JournalHeader, expect_tokenizer, header_of
from trieline.wire.tree_admission import Expectation

log = logging.getLogger(__name__)

LOCK_FILE = ".learner.lock"
"""In a run folder: two learners would write over each other's metrics and checkpoints."""


def run_learner(
    config: LearnerConfig,
    *,
    model: ModelConfig,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    run_dir: Path,
    seed: int,
    resume: bool,
    evaluation: EvaluationConfig,
    max_forks: int | None = None,
) -> int:
    """Train to the end, or until SIGINT or SIGTERM, which end it with a checkpoint. Returns the exit status.

    Args:
        config: of the learner.
        model: what to train.
        envs: the mix of tasks.
        links: the addresses to bind; not used in a replay.
        run_dir: journal, metrics and checkpoints go there.
        seed: of the tasks and of torch.
        resume: go on from the latest checkpoint in `run_dir`.
        evaluation: how held-out success is measured.
        max_forks: of the rollouts of one tree, as the actors branch; None: unknown.
    """
    stop = threading.Event()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with (
            on_stop_signal(_stop_request(stop)),
            file_lock(run_dir / LOCK_FILE, what=f"to train in {run_dir}", timeout_s=0),
        ):
            _run(config, model, envs, links, run_dir, seed, resume, evaluation, max_forks, stop)
    except TrielineError as error:
        log.error("%s", error)
        return 1
    except Exception:
        log.exception("the learner failed")
        return 1
    return 0


def _run(
    config: LearnerConfig,
    model: ModelConfig,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    run_dir: Path,
    seed: int,
    resume: bool,
    evaluation: EvaluationConfig,
    max_forks: int | None,
    stop: threading.Event,
) -> None:
    check_settings(config, envs)
    checkpoint, state = _find_checkpoint(run_dir, resume)
    torch.manual_seed(seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model_folder = prepare_model(model.path)
    learner = Learner(config, model_folder, dtype=choose_dtype(model.dtype))
    curriculum = Curriculum(
        envs,
        seed=seed,
        group_size=config.group_size,
        promotion_episodes=config.promotion_episodes,
        hardest_level_share=config.hardest_level_share,
    )
    if checkpoint is not None and state is not None:
        learner.restore(
            read_model_weights(checkpoint, state),
            read_trainer_tensors(checkpoint, state),
            policy_version=state.policy_version,
            skipped_in_a_row=state.skipped_in_a_row,
        )
        curriculum.load_state_dict(state.curriculum)
        log.info("going on from %s", checkpoint)
    with ExitStack() as stack:
        expectation = expectation_of(
            envs,
            links,
            vocab_size=learner.vocab_size,
            max_positions=learner.max_positions,
            max_forks=max_forks,
        )
        live, source = _open_source(
            config,
            links,
            expectation,
            run_dir,
            learner,
            header_of(model_folder, learner.vocab_size),
            curriculum,
            state,
            resume,
            stop,
            stack,
            evaluation.share,
        )
        metrics = stack.enter_context(closing(MetricsLog(run_dir, step=state.step if state else 0)))
        if live is not None and not _greet_servers(live, learner, links, model_folder, metrics, state):
            live.stop_actors("the learner was asked to stop")
            return
        live_parts = None
        if live is not None:
            live_parts = _live_parts(live, config, evaluation, envs, curriculum, seed, stop)
        training = Training(
            learner,
            source,
            curriculum,
            run_dir=run_dir,
            model_folder=model_folder,
            metrics=metrics,
            live=live_parts,
            state=state,
            stop=stop,
        )
        training.run()


def check_settings(config: LearnerConfig, envs: Sequence[EnvConfig]) -> None:
    """Raise LearnerError for settings that contradict each other or have no effect."""
    config.validate()
    if not any(len(env.curriculum.levels) > 1 for env in envs):
        defaults = LearnerConfig()
        for name in ("promotion_episodes", "hardest_level_share"):
            if getattr(config, name) != getattr(defaults, name):
                msg = f"learner.{name} has no effect: no environment has several levels; remove it"
                raise LearnerError(msg)


def _find_checkpoint(run_dir: Path, resume: bool) -> tuple[Path | None, TrainerState | None]:
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    if not resume:
        if checkpoint is not None or any((run_dir / "journal").glob("*.journal")):
            msg = f"{run_dir} holds a run already: resume it, or give another folder"
            raise LearnerError(msg)
        return None, None
    if checkpoint is None:
        log.warning("%s has no checkpoint yet: the run begins anew, with the trees of its journal", run_dir)
        return None, None
    return checkpoint, read_state(checkpoint)


def _open_source(
    config: LearnerConfig,
    links: LinksConfig,
    expectation: Expectation,
    run_dir: Path,
    learner: Learner,
    header: JournalHeader | None,
    curriculum: Curriculum,
    state: TrainerState | None,
    resume: bool,
    stop: threading.Event,
    stack: ExitStack,
    evaluation_share: float,
) -> tuple[LiveLinks | None, TreeSource]:
    records_taken = state.records_taken if state else 0
    if config.replay is not None:
        if header is not None:
            expect_tokenizer(Path(config.replay), header)
        source = ReplaySource(
            Path(config.replay),
            trees_per_step=config.trees_per_step,
            start=records_taken,
            stop=stop,
            epochs=config.replay_epochs,
        )
        return None, source
    # Opened before it is read: from here on nobody else adds to it.
    journal = Journal(
        run_dir / "journal",
        segment_bytes=config.journal_segment_mb * 1024 * 1024,
        fsync_s=config.journal_fsync_s,
        header=header,
    )
    stack.enter_context(closing(journal))
    accepted = read_accepted(run_dir / "journal", records_taken)
    weights_bytes = sum(t.numel() * t.element_size() for t in learner.weights().values())
    live = LiveLinks(
        links,
        run_dir,
        journal=journal,
        expectation=expectation,
        newest_version=learner.policy_version + (_versions_ahead(config, state) if resume else 0),
        accepted=accepted,
        weights_bytes=weights_bytes,
        stop=stop,
        evaluation_share=evaluation_share,
    )
    stack.enter_context(closing(live))
    pacing = Pacing(trees_per_step=config.trees_per_step, max_staleness=config.max_staleness)
    live_source = LiveSource(
        live.receiver, curriculum, pacing, batch_timeout_s=config.batch_timeout_s, stop=stop
    )
    if resume:
        curriculum.skip_handed_out(accepted.last_assignment)
        unused = live_source.preload(accepted.unused)
        log.info("%d trees are in the journal that no step has used yet", unused)
    return live, live_source


def _live_parts(
    live: LiveLinks,
    config: LearnerConfig,
    evaluation: EvaluationConfig,
    envs: Sequence[EnvConfig],
    curriculum: Curriculum,
    seed: int,
    stop: threading.Event,
) -> LiveParts:
    return LiveParts(
        links=live,
        evaluations=Evaluations(
            live.receiver,
            envs,
            evaluation,
            next_id=curriculum.take_id,
            silence_s=config.batch_timeout_s,
            stop=stop,
        ),
        demonstrations=Demonstrations(
            live.receiver,
            envs,
            seed=seed,
            next_id=curriculum.take_id,
            timeout_s=config.batch_timeout_s,
            stop=stop,
        ),
        evaluation=evaluation,
    )


def _versions_ahead(config: LearnerConfig, state: TrainerState | None) -> int:
    """How many versions past its last checkpoint an earlier start may have published."""
    warm_start = config.warm_start
    warming = warm_start.max_steps if warm_start and not (state and state.warm_started) else 0
    return config.checkpoint_every + warming


def _greet_servers(
    live: LiveLinks,
    learner: Learner,
    links: LinksConfig,
    model_folder: Path,
    metrics: MetricsLog,
    state: TrainerState | None,
) -> bool:
    """Give the policy servers the weights, and see that they compute the same. False: asked to stop."""
    config = learner.config
    live.publish(learner.policy_version, learner.weights())
    if not live.wait_loaded(learner.policy_version, config.startup_timeout_s):
        return False
    if config.probe:
        figures = probe(learner, links, model_folder, timeout_s=config.startup_timeout_s)
        metrics.write(state.step if state else 0, figures)
    return True


def _stop_request(stop: threading.Event) -> Callable[[str], None]:
    """The first signal asks to stop, the second one interrupts."""

    def react(name: str) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        log.info("%s: finishing the step, then a checkpoint", name)
        stop.set()

    return react
