"""Recorded chats become a journal, which is shown, exported and trained on as any other."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trieline.actors.chat import ChatRenderer
from trieline.actors.recorded_chats import chat_trees, read_chats
from trieline.config import ConfigError
from trieline.wire.journal import Journal
from trieline.wire.journal_header import header_of
from trieline.wire.journal_segments import list_segments
from trieline.wire.messages import TreeDelivery
from trieline.wire.model_folder import tokenizer_folder

SENDER = "import"


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of a file."""

    chats: int
    trees: int
    tokens: int
    """Of the trees."""
    sequence_tokens: int
    """Of their sequences, each by itself."""


def import_chats(path: Path, journal: Path, *, model: str, max_unusable: int = 0) -> Imported:
    """Write the chats in a file into a new journal, in tokens of `model`.

    Raises:
        ConfigError: there is a journal already.
        ConversationError: too many lines are no chat for this model.
        ModelFolderError, ChatTemplateError: the model has no tokenizer or chat template.
        JournalError: it can't be written.
    """
    if journal.exists() and list_segments(journal):
        msg = f"expected a new folder for the journal, got {journal}, which holds one"
        raise ConfigError(msg)
    folder = tokenizer_folder(model)
    renderer = ChatRenderer(folder, system_prompt="")
    chats = read_chats(path, renderer, max_unusable=max_unusable)
    trees = chat_trees(chats)
    with closing(Journal(journal, header=header_of(folder, renderer.vocab_size))) as written:
        for number, tree in enumerate(trees):
            written.append(
                TreeDelivery(actor_id=SENDER, sequence_number=number, assignment_id=number, tree=tree)
            )
    return Imported(
        chats=len(chats),
        trees=len(trees),
        tokens=sum(tree.num_tokens for tree in trees),
        sequence_tokens=sum(tree.num_sequence_tokens for tree in trees),
    )
