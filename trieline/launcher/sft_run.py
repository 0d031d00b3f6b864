"""A supervised fine-tuning run: conversations become a journal, and the learner replays it."""

import math
import random
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from trieline.actors.chat import ChatRenderer
from trieline.actors.chat_template import read_json
from trieline.actors.conversations import (
    Conversation,
    conversation_trees,
    read_conversations,
    select_sequences,
)
from trieline.config import Config, ConfigError
from trieline.launcher.progress import say
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.trackers.tracker import expect_installed
from trieline.launcher.training_run import (
    learner_spec,
    prepare_model,
    supervise,
    tracker_specs,
    with_absolute_paths,
)
from trieline.wire.errors import TreeError
from trieline.wire.journal import Journal, read_journal
from trieline.wire.journal_header import JournalHeader, expect_tokenizer, header_of
from trieline.wire.messages import TreeDelivery
from trieline.wire.model_folder import tokenizer_folder
from trieline.wire.tree import TrajectoryTree

DATA_FOLDER = "data"


def start_sft(
    config: Config,
    *,
    files: Sequence[Path],
    journals: Sequence[Path],
    min_return: float,
    epochs: int,
    max_unusable: int = 0,
) -> tuple[Config, RunFolder]:
    """Make the run folder and write the data into it, shuffled by the run's seed.

    Raises:
        ConversationError: more than `max_unusable` lines of a file are no conversation.
        ConfigError: the configuration is not one of supervised fine-tuning, the data are not there or too few
            for it, or a journal holds tokens that the model does not have.
        JournalError: a journal is of another tokenizer, or can't be read.
    """
    if config.learner.objective.loss != "sft":
        msg = f"expected learner.objective.loss = 'sft', got {config.learner.objective.loss!r}"
        raise ConfigError(msg)
    expect_installed(config.run.trackers)
    for path in (*files, *journals):
        # Told before the model is fetched.
        if not path.exists():
            msg = f"expected data to train on at {path}, found nothing there"
            raise ConfigError(msg)
    config = with_absolute_paths(config)
    model_config = prepare_model(config.model, Console(stderr=False), device=config.learner.device)
    config = msgspec.structs.replace(config, model=model_config)
    model = tokenizer_folder(config.model.path)
    renderer = ChatRenderer(model, system_prompt="", template_kwargs=config.model.template_kwargs)
    header = header_of(model, renderer.vocab_size)
    trees = _read_files(files, renderer, max_unusable=max_unusable, max_tokens=_positions(model))
    trees += _read_journals(journals, header, renderer.vocab_size, min_return)
    random.Random(config.run.seed).shuffle(trees)
    per_step = config.learner.trees_per_step
    steps = math.ceil(epochs * len(trees) / per_step)
    if epochs * len(trees) < per_step:
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
    with closing(Journal(data, header=header)) as journal:
        for number, tree in enumerate(trees):
            journal.append(
                TreeDelivery(actor_id="sft", sequence_number=number, assignment_id=number, tree=tree)
            )
    folder.write(config)
    return config, folder


def resume_sft(folder: RunFolder) -> Config:
    """The configuration of a run that goes on, with its data where the run folder stands now.

    Raises:
        ConfigError: it is no run of supervised fine-tuning.
    """
    config = folder.load_config()
    if not (folder.path / DATA_FOLDER).is_dir():
        msg = f"expected a run of trieline sft, got {folder.path}, which has no folder {DATA_FOLDER}"
        raise ConfigError(msg)
    learner = msgspec.structs.replace(config.learner, replay=str(folder.path / DATA_FOLDER))
    config = msgspec.structs.replace(config, learner=learner)
    folder.write(config)
    return config


def run_sft(config: Config, folder: RunFolder, *, resume: bool) -> int:
    """Train to the end, to a failure, or to Ctrl-C. Returns the exit status.

    Raises:
        ChildError: the learner failed.
    """
    console = Console(stderr=False)
    say(console, f"run folder: {folder.path}")
    specs = [learner_spec(folder, resume=resume), *tracker_specs(config, folder)]
    finished = supervise(config, folder, specs, console)
    if not finished:
        say(console, f"stopped. Go on with: trieline sft --resume {shlex.quote(str(folder.path))}")
        return 130
    say(console, loss_line(folder.read_metrics()))
    return 0


def loss_line(records: Iterable[Mapping[str, Any]]) -> str:
    """What came of a run. A step whose loss was not finite changed nothing, and has none in the metrics."""
    losses = [float(loss) for r in records if (loss := r.get("loss/policy")) is not None]
    if not losses:
        return "no step had a finite loss"
    return f"loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last"


def _read_files(
    files: Sequence[Path], renderer: ChatRenderer, *, max_unusable: int, max_tokens: int | None
) -> list[TrajectoryTree]:
    conversations: list[Conversation] = []
    for path in files:
        conversations += read_conversations(path, renderer, max_unusable=max_unusable, max_tokens=max_tokens)
    return conversation_trees(conversations, renderer)


def find_journal(folder: Path) -> Path:
    """The journal in a folder of a run, or the folder itself."""
    inside = [folder / name for name in ("journal", DATA_FOLDER) if (folder / name).is_dir()]
    return inside[0] if inside else folder


def _read_journals(
    journals: Sequence[Path], header: JournalHeader | None, vocab_size: int, min_return: float
) -> list[TrajectoryTree]:
    trees: list[TrajectoryTree] = []
    for path in journals:
        journal = find_journal(path)
        if header is not None:
            expect_tokenizer(journal, header)
        for delivery in read_journal(journal):
            _expect_own_tokens(journal, delivery.tree, vocab_size)
            selected = select_sequences(delivery.tree, min_return=min_return)
            trees += [selected] if selected is not None else []
    return trees


def _expect_own_tokens(journal: Path, tree: TrajectoryTree, vocab_size: int) -> None:
    """Raise ConfigError if the tokens of a recorded tree can't be those of this model's tokenizer."""
    try:
        tree.validate(vocab_size=vocab_size)
    except TreeError as error:
        msg = f"expected a journal of the model that is trained, got another's in {journal}: {error}"
        raise ConfigError(msg) from error


def _positions(folder: Path) -> int | None:
    """How long a sequence the model was made for; None if its folder does not say."""
    model = read_json(folder / "config.json")
    length = model.get("text_config", model).get("max_position_embeddings")
    return length if isinstance(length, int) else None
