"""A rank of the learner that rank 0 tells what to do, as a program.

It reads no config and writes nothing but its shards of a checkpoint: what it has to know comes from rank 0.
"""

import logging
import os
import signal
import sys
from pathlib import Path

import torch

from trieline.common.program_log import start_log
from trieline.learner.allocator import keep_freed_memory
from trieline.learner.errors import LearnerError
from trieline.learner.keeping.checkpoint import read_state
from trieline.learner.keeping.shards import gather_whole, write_shards
from trieline.learner.model.compute_dtype import NAMED_DTYPES
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.ranked_learner import RankedLearner
from trieline.learner.ranks.group import Ranks
from trieline.learner.ranks.orders import End, Forget, Order, Publish, Recompute, Restore, Save, Setup, Step
from trieline.learner.ranks.start import ranks_of_follower
from trieline.learner.restoring import restore_learner
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)


def run_follower() -> int:
    """Follow rank 0 until it says that it is over. Returns the exit status."""
    # Rank 0 hears them, too, and ends in order: it needs the others for its last checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        _follow(ranks_of_follower())
    except Exception:
        log.exception("rank %s of the learner failed", os.environ.get("RANK"))
        logging.shutdown()
        # The thread that listens to rank 0 would keep an orderly end waiting.
        os._exit(1)
    return 0


def _follow(ranks: Ranks) -> None:
    setup, _ = ranks.hear()
    learner: RankedLearner | None = None
    failed = LearnerError("expected a model to load as the first order of rank 0")
    if isinstance(setup, Setup):
        try:
            learner = _load(setup, ranks)
        except LearnerError as error:
            # Rank 0 most likely meets the same one, and says so.
            failed = error
    while True:
        order, trees = (setup, []) if isinstance(setup, End) else ranks.hear()
        if isinstance(order, End):
            ranks.close()
            return
        if learner is None:
            raise failed
        try:
            _obey(learner, order, trees)
        except LearnerError:
            # Where all ranks have met it, rank 0 decides what comes of it.
            if not learner.is_whole:
                raise


def _load(setup: Setup, ranks: Ranks) -> RankedLearner:
    torch.manual_seed(setup.seed)
    if setup.config.threads is not None:
        torch.set_num_threads(setup.config.threads)
    folder = prepare_model(setup.model)
    return RankedLearner(setup.config, folder, dtype=NAMED_DTYPES[setup.dtype], ranks=ranks)


def _obey(learner: RankedLearner, order: Order, trees: list[TrajectoryTree]) -> None:
    match order:
        case Step(objective=objective, lr=lr, expect_agreement=expect_agreement):
            learner.step(trees, objective=objective, lr=lr, expect_agreement=expect_agreement)
        case Recompute():
            learner.recompute_logprobs(trees)
        case Forget():
            learner.forget()
        case Publish():
            with learner.together(order):
                gather_whole(learner.weights())
        case Save():
            with learner.together(order):
                gather_whole(learner.masters())
                write_shards(Path(), learner.trainer_tensors(), learner.ranks)
        case Restore(checkpoint=checkpoint):
            with learner.together(order):
                restore_learner(learner, Path(checkpoint), read_state(Path(checkpoint)))
        case _:
            msg = f"expected an order to a learner that is set up, got {type(order).__name__}"
            raise LearnerError(msg)


if __name__ == "__main__":
    start_log()
    keep_freed_memory()
    sys.exit(run_follower())
