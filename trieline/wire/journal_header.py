"""What a journal says of itself, in `journal.json` beside its segments: of which tokenizer its token ids are.

Journals of before it say nothing, and are read all the same.
"""

import hashlib
from pathlib import Path

import msgspec

from trieline.common.folders import write_whole
from trieline.common.numbers import Count
from trieline.wire.errors import JournalError, ModelFolderError
from trieline.wire.messages import PROTOCOL_VERSION

HEADER_FILE = "journal.json"
BYTES_TOKENIZER = "utf-8"
"""In place of a tokenizer's fingerprint: the token ids are bytes of text, and four marks between messages
(`actors.endpoint_policy`)."""
BYTES_VOCABULARY = 260


class JournalHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Written when a journal is begun."""

    vocab_size: Count
    """Of the model that was trained: no token id of the journal is higher."""
    tokenizer: str
    """`tokenizer_fingerprint` of its folder."""
    protocol: int = PROTOCOL_VERSION


def read_header(folder: Path) -> JournalHeader | None:
    """None: the journal says nothing. Raises JournalError: it can't be read, or is of a later version."""
    path = folder / HEADER_FILE
    try:
        header = msgspec.json.decode(path.read_bytes(), type=JournalHeader)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        msg = f"can't read {path}: {error}"
        raise JournalError(msg) from error
    if header.protocol > PROTOCOL_VERSION:
        msg = f"expected a journal of at most protocol {PROTOCOL_VERSION} in {folder}, got {header.protocol}"
        raise JournalError(msg)
    return header


def expect_tokenizer(folder: Path, header: JournalHeader) -> None:
    """Raise JournalError if the journal in `folder` says that it is of another tokenizer."""
    found = read_header(folder)
    if found is None or found.tokenizer == header.tokenizer:
        return
    msg = (
        f"expected a journal of the model's own tokenizer ({header.tokenizer[:12]}, vocabulary of "
        f"{header.vocab_size}) in {folder}, got one of another ({found.tokenizer[:12]}, {found.vocab_size})"
    )
    raise JournalError(msg)


def header_of(model_folder: Path, vocab_size: int) -> JournalHeader | None:
    """What a journal of this model says of itself; None if its folder has no tokenizer.

    Raises:
        ModelFolderError: the tokenizer can't be read.
    """
    if not (model_folder / "tokenizer.json").is_file():
        return None
    return JournalHeader(vocab_size=vocab_size, tokenizer=tokenizer_fingerprint(model_folder))


def write_header(folder: Path, header: JournalHeader) -> None:
    """Write it, whole or not at all. Raises OSError."""
    write_whole(folder / HEADER_FILE, msgspec.json.encode(header))


def tokenizer_fingerprint(folder: Path) -> str:
    """Which token each id stands for in the tokenizer of a model folder, as a hash.

    Neither where the folder is nor how its files are written matters.

    Raises:
        ModelFolderError: there is no tokenizer.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = msgspec.json.decode(path.read_bytes())
        vocab = tokenizer["model"]["vocab"]
        # A list holds pairs of token and score, in the order of the ids.
        ids = vocab if isinstance(vocab, dict) else {token: n for n, (token, _) in enumerate(vocab)}
        ids = ids | {added["content"]: added["id"] for added in tokenizer.get("added_tokens", [])}
    except (OSError, msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"expected a tokenizer in {path}, got none that can be read: {type(error).__name__}: {error}"
        raise ModelFolderError(msg) from error
    return hashlib.sha256(msgspec.json.encode(sorted(ids.items()))).hexdigest()
