"""The learner process: put the parts together, train, and end in order on a signal."""

import errno
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from trieline.common.errors import TrielineError
from trieline.common.file_lock import file_lock
from trieline.common.signals import on_stop_signal
from trieline.learner.batch.groups import teaches
from trieline.learner.config import EvaluationConfig, LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.intake.accepted import read_accepted
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.intake.demonstrations import Demonstrations
from trieline.learner.intake.evaluation import Evaluations
from trieline.learner.intake.staleness import Pacing
from trieline.learner.intake.tree_source import LiveSource, ReplaySource, StepSize, TreeSource
from trieline.learner.keeping.checkpoint import (
    TrainerState,
    latest_checkpoint,
    read_state,
    sweep_checkpoints,
)
from trieline.learner.keeping.metrics import MetricsLog
from trieline.learner.live_links import Admitted, LiveLinks, expectation_of
from trieline.learner.model.compute_device import choose_device
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.probe import AgreementProbe, MismatchWatch
from trieline.learner.ranked_learner import RankedLearner
from trieline.learner.ranks.orders import Publish, Restore, Setup
from trieline.learner.ranks.start import Crew
from trieline.learner.restoring import restore_learner
from trieline.learner.settings import check_settings
from trieline.learner.training import LiveParts, Parts, Training
from trieline.learner.update.learner import Learner
from trieline.wire.config import EnvConfig, LinksConfig, ModelConfig
from trieline.wire.gate import check_peer
from trieline.wire.journal import Journal
from trieline.wire.journal_header import JournalHeader, expect_tokenizer, header_of
from trieline.wire.task_lists import TaskLists

log = logging.getLogger(__name__)

LOCK_FILE = ".learner.lock"
"""In a run folder: two learners would write over each other's metrics and checkpoints."""

# Whoever looks at the run (`trieline status`) has the lock for a moment.
LOCK_S = 1.0
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What a disk says that takes no more; Python does not always know of which file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerRun:
    """What one start of the learner is told."""

    config: LearnerConfig
    model: ModelConfig
    """What to train."""
    envs: Sequence[EnvConfig]
    """The mix of tasks."""
    links: LinksConfig
    """The addresses to bind; not used in a replay."""
    run_dir: Path
    """Journal, metrics and checkpoints go there."""
    seed: int
    """Of the tasks and of torch."""
    resume: bool
    """Go on from the latest checkpoint in `run_dir`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How held-out success is measured."""
    max_forks: int | None = None
    """Of the rollouts of one tree, as the actors branch. None: unknown."""
    tasks: Mapping[str, TaskLists] = field(default_factory=dict)
    """By environment id, of those that list their tasks. Not used in a replay."""


def run_learner(run: LearnerRun) -> int:
    """Train to the end, or to SIGINT or SIGTERM, which end it with a checkpoint. Returns the exit status."""
    stop = threading.Event()
    try:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        lock = file_lock(run.run_dir / LOCK_FILE, what=f"to train in {run.run_dir}", timeout_s=LOCK_S)
        with on_stop_signal(_stop_request(stop)), lock, ExitStack() as stack:
            _run(run, stop, stack)
    except TrielineError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            log.exception("the learner failed")
        else:
            log.error("%s: %s", error.filename or f"a file in {run.run_dir}", error.strerror)
        return 1
    except Exception:
        log.exception("the learner failed")
        return 1
    return 0


def _run(run: LearnerRun, stop: threading.Event, stack: ExitStack) -> None:
    config = run.config
    check_settings(config, run.envs, None if config.replay is not None else run.tasks)
    for address in run.links.generate_addresses if config.replay is None else ():
        check_peer(address, run.links.keys)
    sweep_checkpoints(run.run_dir / "checkpoints")
    checkpoint, state = _find_checkpoint(run.run_dir, run.resume)
    torch.manual_seed(run.seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model_folder = prepare_model(run.model.path)
    learner = stack.enter_context(closing(_make_learner(run, model_folder)))
    curriculum = Curriculum(
        run.envs,
        seed=run.seed,
        group_size=config.group_size,
        promotion_episodes=config.promotion_episodes,
        hardest_level_share=config.hardest_level_share,
        mix=config.mix,
        tasks=None if config.replay is not None else {i: lists.train for i, lists in run.tasks.items()},
    )
    if checkpoint is not None and state is not None:
        _restore(learner, curriculum, checkpoint, state)
    _check_positions(learner, run.envs)
    header = header_of(model_folder, learner.vocab_size)
    live, source = _open_source(run, learner, header, curriculum, state, stop, stack)
    metrics = stack.enter_context(closing(_open_metrics(run.run_dir, state)))
    watch = None
    if live is not None:
        probe = AgreementProbe(learner, run.links, model_folder, run.model.template_kwargs)
        if not _greet_servers(run, live, learner, probe, metrics, state):
            live.stop_actors("the learner was asked to stop")
            return
        canary = partial(probe.canary, timeout_s=config.weights_timeout_s)
        watch = MismatchWatch(canary, every=config.canary_every)
    parts = Parts(
        learner=learner,
        source=source,
        curriculum=curriculum,
        run_dir=run.run_dir,
        model_folder=model_folder,
        metrics=metrics,
        stop=stop,
        live=None if live is None else _live_parts(run, live, curriculum, stop),
        watch=watch,
        state=state,
    )
    Training(parts).run()


def _make_learner(run: LearnerRun, model_folder: Path) -> Learner:
    config, device = run.config, choose_device(run.config.device)
    dtype = choose_dtype(run.model.dtype, device)
    crew = Crew.of(config.ranks, device)
    if crew is None:
        return Learner(config, model_folder, dtype=dtype)
    setup = Setup(config=config, model=run.model.path, dtype=dtype_name(dtype), seed=run.seed)
    return RankedLearner.of_crew(crew, setup, model_folder)


def _check_positions(learner: Learner, envs: Sequence[EnvConfig]) -> None:
    positions = learner.max_positions
    for env in envs if learner.config.replay is None else ():
        if positions is not None and env.episode.max_context > positions:
            msg = (
                f"{env.id}: expected episode.max_context of at most the {positions} positions of "
                f"{learner.model.name}, got {env.episode.max_context}"
            )
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


def _restore(learner: Learner, curriculum: Curriculum, checkpoint: Path, state: TrainerState) -> None:
    with learner.together(Restore(checkpoint=str(checkpoint.absolute()))):
        restore_learner(learner, checkpoint, state)
    curriculum.load_state_dict(state.curriculum)
    log.info("going on from %s", checkpoint)


def _open_metrics(run_dir: Path, state: TrainerState | None) -> MetricsLog:
    if state is None:
        return MetricsLog(run_dir, step=None)
    if state.warm_started:
        return MetricsLog(run_dir, step=state.step)
    return MetricsLog(run_dir, step=state.step, warm_start_step=state.policy_version)


def _open_source(
    run: LearnerRun,
    learner: Learner,
    header: JournalHeader | None,
    curriculum: Curriculum,
    state: TrainerState | None,
    stop: threading.Event,
    stack: ExitStack,
) -> tuple[LiveLinks | None, TreeSource]:
    config = run.config
    records_taken = state.records_taken if state else 0
    size = StepSize(
        trees_per_step=config.trees_per_step,
        most=round(config.fill_batches * config.trees_per_step),
        teaches=partial(teaches, config=config.objective),
    )
    if config.replay is not None:
        folder = Path(config.replay)
        if header is not None:
            expect_tokenizer(folder, header)
        return None, ReplaySource(folder, size, start=records_taken, stop=stop, epochs=config.replay_epochs)
    # Opened before it is read: from here on nobody else adds to it.
    journal = Journal(
        run.run_dir / "journal",
        segment_bytes=config.journal_segment_mb * 1024 * 1024,
        fsync_s=config.journal_fsync_s,
        header=header,
    )
    stack.enter_context(closing(journal))
    accepted = read_accepted(run.run_dir / "journal", records_taken)
    live = LiveLinks(
        run.links,
        run.run_dir,
        journal=journal,
        admitted=Admitted(
            expectation=expectation_of(
                run.envs,
                run.links,
                vocab_size=learner.vocab_size,
                max_positions=learner.max_positions,
                max_forks=run.max_forks,
            ),
            newest_version=learner.policy_version + (_versions_ahead(config, state) if run.resume else 0),
            accepted=accepted,
            max_task_losses=config.max_task_losses,
            evaluation_share=run.evaluation.share,
        ),
        weights_bytes=sum(t.numel() * t.element_size() for t in learner.weights().values()),
        stop=stop,
    )
    stack.enter_context(closing(live))
    pacing = Pacing(trees_per_step=config.trees_per_step, max_staleness=config.max_staleness)
    source = LiveSource(
        live.receiver, curriculum, pacing, size, batch_timeout_s=config.batch_timeout_s, stop=stop
    )
    if run.resume:
        curriculum.skip_handed_out(accepted.last_assignment, accepted.unused_tasks())
        unused = source.preload(accepted.unused)
        log.info("%d trees are in the journal that no step has used yet", unused)
    return live, source


def _greet_servers(
    run: LearnerRun,
    live: LiveLinks,
    learner: Learner,
    probe: AgreementProbe,
    metrics: MetricsLog,
    state: TrainerState | None,
) -> bool:
    """Give the policy servers the weights, and see that they compute the same. False: asked to stop."""
    timeout_s = run.config.startup_timeout_s
    with learner.together(Publish()):
        live.publish(learner.policy_version, learner.weights(), learner.adapter_config)
    if not live.wait_loaded(learner.policy_version, late_s=timeout_s, absent_s=timeout_s):
        return False
    if run.config.probe:
        metrics.write(state.step if state else 0, probe.probe(run.envs, timeout_s=timeout_s))
    return True


def _live_parts(run: LearnerRun, live: LiveLinks, curriculum: Curriculum, stop: threading.Event) -> LiveParts:
    timeout_s = run.config.batch_timeout_s
    return LiveParts(
        links=live,
        evaluations=Evaluations(
            live.receiver,
            run.envs,
            run.evaluation,
            tasks={i: lists.test for i, lists in run.tasks.items()},
            next_id=curriculum.take_id,
            silence_s=timeout_s,
            stop=stop,
        ),
        demonstrations=Demonstrations(
            live.receiver,
            run.envs,
            seed=run.seed,
            next_id=curriculum.take_id,
            timeout_s=timeout_s,
            stop=stop,
        ),
        evaluation=run.evaluation,
    )


def _versions_ahead(config: LearnerConfig, state: TrainerState | None) -> int:
    """How many versions past its last checkpoint an earlier start may have published."""
    warm_start = config.warm_start
    warming = warm_start.max_steps if warm_start and not (state and state.warm_started) else 0
    return config.checkpoint_every + warming


def _stop_request(stop: threading.Event) -> Callable[[str], None]:
    """The first signal asks to stop, the second one interrupts."""

    def react(name: str) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        log.info("%s: finishing the step, then a checkpoint", name)
        stop.set()

    return react
