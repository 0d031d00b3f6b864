"""The learner process: put the parts together, train, and end in order on a signal."""

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

import torch

from trieline.common.errors import TrielineError
from trieline.common.file_lock import file_lock
from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.intake.accepted import read_accepted
from trieline.learner.intake.curriculum import Curriculum
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
from trieline.learner.live_links import LiveLinks
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.probe import probe
from trieline.learner.training import Hooks, Training
from trieline.learner.update.learner import Learner
from trieline.wire.config import EnvConfig, LinksConfig, ModelConfig
from trieline.wire.journal import Journal

log = logging.getLogger(__name__)

NO_HOOKS = Hooks()
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
    hooks: Hooks = NO_HOOKS,
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
        hooks: what plays episodes for the learner.
    """
    stop = threading.Event()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with _signals(stop), file_lock(run_dir / LOCK_FILE, what=f"to train in {run_dir}", timeout_s=0):
            _run(config, model, envs, links, run_dir, seed, resume, hooks, stop)
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
    hooks: Hooks,
    stop: threading.Event,
) -> None:
    check_settings(config, envs)
    if config.warm_start is not None and (hooks.demonstrations is None or hooks.success is None):
        msg = "a warm start needs demonstrations and a measure of success, and the caller gave none"
        raise LearnerError(msg)
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
        live, source = _open_source(config, links, run_dir, learner, curriculum, state, resume, stop, stack)
        metrics = stack.enter_context(closing(MetricsLog(run_dir, step=state.step if state else 0)))
        if live is not None and not _greet_servers(live, learner, links, model_folder, model, metrics, state):
            live.stop_actors("the learner was asked to stop")
            return
        training = Training(
            learner,
            source,
            curriculum,
            run_dir=run_dir,
            model_folder=model_folder,
            metrics=metrics,
            live=live,
            state=state,
            hooks=hooks,
            stop=stop,
        )
        training.run()


def check_settings(config: LearnerConfig, envs: Sequence[EnvConfig]) -> None:
    """Raise LearnerError for settings that contradict each other or have no effect."""
    config.validate()
    if not any(len(env.levels) > 1 for env in envs):
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
    run_dir: Path,
    learner: Learner,
    curriculum: Curriculum,
    state: TrainerState | None,
    resume: bool,
    stop: threading.Event,
    stack: ExitStack,
) -> tuple[LiveLinks | None, TreeSource]:
    records_taken = state.records_taken if state else 0
    if config.replay is not None:
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
    )
    stack.enter_context(closing(journal))
    accepted = read_accepted(run_dir / "journal", records_taken)
    weights_bytes = sum(t.numel() * t.element_size() for t in learner.weights().values())
    live = LiveLinks(
        links,
        run_dir,
        journal=journal,
        vocab_size=learner.vocab_size,
        accepted=accepted,
        weights_bytes=weights_bytes,
        stop=stop,
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


def _greet_servers(
    live: LiveLinks,
    learner: Learner,
    links: LinksConfig,
    model_folder: Path,
    model: ModelConfig,
    metrics: MetricsLog,
    state: TrainerState | None,
) -> bool:
    """Give the policy servers the weights, and see that they compute the same. False: asked to stop."""
    config = learner.config
    live.publish(learner.policy_version, learner.weights())
    if not live.wait_loaded(learner.policy_version, config.startup_timeout_s):
        return False
    if config.probe:
        figures = probe(
            learner,
            links,
            model_folder,
            timeout_s=config.startup_timeout_s,
            template_kwargs=model.template_kwargs,
        )
        metrics.write(state.step if state else 0, figures)
    return True


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks to stop, the second one interrupts. Only the main thread gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        log.info("%s: finishing the step, then a checkpoint", signal.Signals(number).name)
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
