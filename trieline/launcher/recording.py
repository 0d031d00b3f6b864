"""What was recorded at a path: the journal of a run, a journal by itself, or one tree in a file."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trieline.config import Config, ConfigError
from trieline.launcher.message_rows import Reader, SpelledReader, chat_reader
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.sft_run import find_journal
from trieline.launcher.token_texts import TokenTexts, bytes_texts, tokenizer_texts
from trieline.wire.errors import ModelFolderError
from trieline.wire.journal import read_journal, read_tree
from trieline.wire.journal_header import BYTES_TOKENIZER, read_header
from trieline.wire.messages import TreeDelivery
from trieline.wire.model_folder import tokenizer_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Trees on the disk."""

    path: Path
    """The folder of a journal, or a file of one tree."""
    run_dir: Path | None
    """Of the run that they are of, if its configuration is there."""

    def deliveries(self, env_ids: Collection[str] = (), *, first: int = 0) -> Iterator[TreeDelivery]:
        """The trees of these environments (of all, if none is named), from record `first` on.

        Raises:
            JournalError: there are none, or one can't be read.
        """
        found = (
            iter([read_tree(self.path)][first:]) if self.path.is_file() else read_journal(self.path, first)
        )
        return (d for d in found if not env_ids or d.tree.env_id in env_ids)

    def config(self) -> Config | None:
        """Of the run; None: it is not known."""
        return RunFolder.open(str(self.run_dir)).load_config() if self.run_dir else None

    def token_texts(self, model: str | None = None) -> TokenTexts | None:
        """How its token ids are read; None: not known. `model` is asked where the recording doesn't say."""
        if self._is_spelled():
            return bytes_texts
        if model is None:
            config = self.config()
            if config is None:
                return None
            model = config.model.path
            try:
                return tokenizer_texts(tokenizer_folder(model))
            except ModelFolderError:
                return None  # token ids are shown instead
        return tokenizer_texts(tokenizer_folder(model))

    def chat_reader(self, model: str | None = None) -> Reader:
        """What reads its sequences as messages. `model` is asked where the recording doesn't say.

        Raises:
            ConfigError: it is not known whose tokens they are.
            ModelFolderError, ChatTemplateError: the model can't be used for it.
        """
        if self._is_spelled():
            return SpelledReader()
        config = self.config()
        if model is None and config is None:
            msg = f"expected --model: {self.path} doesn't say whose tokens they are"
            raise ConfigError(msg)
        kwargs = config.model.template_kwargs if config else {}
        return chat_reader(tokenizer_folder(model or (config.model.path if config else "")), kwargs)

    def _is_spelled(self) -> bool:
        """Whether the token ids are bytes of text."""
        folder = self.path.parent if self.path.is_file() else self.path
        # A tree by itself lies in a folder beside the journal's, as a rule.
        near = [place / "journal" for place in (folder, *folder.parents)[:3]]
        headers = map(read_header, (folder, *near) if self.path.is_file() else (folder,))
        return any(header is not None and header.tokenizer == BYTES_TOKENIZER for header in headers)

    def decoder(self) -> Callable[[Sequence[int]], str] | None:
        """Token ids to text; None: not known how."""
        texts = self.token_texts()
        return None if texts is None else lambda ids: "".join(texts((), ids))


def find_recording(path: str) -> Recording:
    """What is at the path of a run folder, a journal, or a tree."""
    place = Path(path)
    journal = place if place.is_file() else find_journal(place)
    resolved = place.resolve()
    for run_dir in (resolved, resolved.parent, resolved.parent.parent):
        if (run_dir / "config.toml").is_file():
            return Recording(path=journal, run_dir=run_dir)
    return Recording(path=journal, run_dir=None)
