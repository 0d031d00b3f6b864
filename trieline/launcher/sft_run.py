"""A supervised fine-tuning run: conversations become a journal, and the learner replays it."""

import random
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from rich.console import Console

from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import conversation_trees, read_conversations, select_sequences
from trieline.config import Config, ConfigError
from trieline.launcher.progress import say
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.training_run import learner_spec, prepare_model, supervise
from trieline.wire.journal import Journal, read_journal
from trieline.wire.messages import TreeDelivery
from trieline.wire.model_folder import tokenizer_folder
from trieline.wire.tree import TrajectoryTree

DATA_FOLDER = "data"


def start_sft(
    config: Config, *, files: Sequence[Path], journals: Sequence[Path], min_return: float, epochs: int
) -> tuple[Config, RunFolder]:
    """Make the run folder and write the data into it, shuffled by the run's seed.

    Raises:
        ConversationError: a line of a file is no conversation.
        ConfigError: the configuration is not one of supervised fine-tuning, or the data are too few for it.
    """
    if config.learner.objective.loss != "sft":
        msg = f"expected learner.objective.loss = 'sft', got {config.learner.objective.loss!r}"
        raise ConfigError(msg)
    trees = _read_trees(config, files, journals, min_return)
    random.Random(config.run.seed).shuffle(trees)
    per_step = config.learner.trees_per_step
    steps = epochs * len(trees) // per_step
    if steps == 0:
        msg = (
            f"expected at least learner.trees_per_step = {per_step} trees of conversations in {epochs} "
            f"epochs, got {len(trees)} trees"
        )
        raise ConfigError(msg)
    folder = RunFolder.reserve(config)
    data = folder.path / DATA_FOLDER
    learner = msgspec.structs.replace(
        config.learner, steps=steps, replay=str(data), replay_epochs=epochs, warm_start=None
    )
    config = msgspec.structs.replace(config, learner=learner)
    with closing(Journal(data)) as journal:
        for number, tree in enumerate(trees):
            journal.append(
                TreeDelivery(actor_id="sft", sequence_number=number, assignment_id=number, tree=tree)
            )
    folder.write(config)
    return config, folder


def run_sft(config: Config, folder: RunFolder, *, resume: bool) -> int:
    """Train to the end, to a failure, or to Ctrl-C. Returns the exit status.

    Raises:
        ChildError: the learner failed.
    """
    console = Console(stderr=False)
    say(console, f"run folder: {folder.path}")
    finished = supervise(config, folder, [learner_spec(folder, resume=resume)], console)
    if not finished:
        say(console, f"stopped. Go on with: trieline sft --resume {shlex.quote(str(folder.path))}")
        return 130
    losses = [float(r["loss/policy"]) for r in folder.read_metrics() if "loss/policy" in r]
    say(console, f"loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last")
    return 0


def _read_trees(
    config: Config, files: Sequence[Path], journals: Sequence[Path], min_return: float
) -> list[TrajectoryTree]:
    prepare_model(config.model, Console(stderr=False))
    renderer = ChatRenderer(tokenizer_folder(config.model.path), system_prompt="")
    trees = conversation_trees([c for path in files for c in read_conversations(path, renderer)], renderer)
    for path in journals:
        journal = path / "journal" if (path / "journal").is_dir() else path
        selected = (select_sequences(d.tree, min_return=min_return) for d in read_journal(journal))
        trees += [tree for tree in selected if tree is not None]
    return trees
