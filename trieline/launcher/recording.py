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
from trieline.wire.journal_header import BYTES_TOKENIZER, read_header, tokenizer_fingerprint
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
        try:
            folder = self._model_folder(model)
        except ModelFolderError:
            if model is not None:
                raise
            return None  # token ids are shown instead
        return None if folder is None else tokenizer_texts(folder)

    def chat_reader(self, model: str | None = None) -> Reader:
        """What reads its sequences as messages. `model` is asked where the recording doesn't say.

        Raises:
            ConfigError: it is not known whose tokens they are, or they are another's.
            ModelFolderError, ChatTemplateError: the model can't be used for it.
        """
        if self._is_spelled():
            return SpelledReader()
        folder, config = self._model_folder(model), self.config()
        if folder is None:
            msg = f"expected --model: {self.path} doesn't say whose tokens they are"
            raise ConfigError(msg)
        return chat_reader(folder, config.model.template_kwargs if config else {})

    def _model_folder(self, model: str | None) -> Path | None:
        """Where the tokenizer is: of `model`, else of the run; None: it is not known.

        Raises:
            ModelFolderError: it isn't here.
            ConfigError: the journal says that its tokens are another's than `model`'s.
        """
        if model is None:
            config = self.config()
            return None if config is None else tokenizer_folder(config.model.path)
        folder = tokenizer_folder(model)
        header = read_header(self.path) if self.path.is_dir() else None
        if header is not None and header.tokenizer != tokenizer_fingerprint(folder):
            msg = (
                f"expected the model whose tokens are in {self.path} (tokenizer {header.tokenizer[:12]}, "
                f"vocabulary of {header.vocab_size}), got another: {model}"
            )
            raise ConfigError(msg)
        return folder

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
