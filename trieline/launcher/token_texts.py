"""The text of each token by itself, as people read it: what none of them says twice and all say together."""

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from trieline.actors.endpoint_policy import SYSTEM, bytes_shown
from trieline.wire.errors import ModelFolderError

TokenTexts = Callable[[Sequence[int], Sequence[int]], list[str]]
"""What stands before some tokens, and those tokens, to a text for each of them.

A character of several tokens is the text of the last, and the others have none.
"""

CONTEXT = 4
"""Tokens before a text that decide how its first one is read: more than any character has."""


def tokenizer_texts(folder: Path) -> TokenTexts:
    """Those of a model folder's tokenizer. Raises ModelFolderError: it has none that can be read."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        msg = f"expected a tokenizer in {path}, got none that can be read: {error}"
        raise ModelFolderError(msg) from error

    def texts(before: Sequence[int], ids: Sequence[int]) -> list[str]:
        stream = DecodeStream(skip_special_tokens=False)
        for token in before[-CONTEXT:]:
            _step(tokenizer, stream, token)
        found: list[str] = []
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            text = _step(tokenizer, stream, token)
            if text is not None:
                pending.clear()
            found.append(text or "")
        if pending:
            found[-1] = tokenizer.decode(pending, skip_special_tokens=False)
        return found

    return texts


def bytes_texts(before: Sequence[int], ids: Sequence[int]) -> list[str]:
    """Those of `endpoint_policy`'s bytes and marks; of the text before, nothing is needed."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found = []
    for token in ids:
        if token < SYSTEM:
            found.append(decoder.decode(bytes([token])))
        else:
            found.append(decoder.decode(b"", final=True) + bytes_shown([token]))
            decoder.reset()
    if found:
        found[-1] += decoder.decode(b"", final=True)
    return found


def _step(tokenizer: Tokenizer, stream: DecodeStream, token: int) -> str | None:
    try:
        text: str | None = stream.step(tokenizer, token)
    except Exception:  # noqa: BLE001  # the package raises nothing narrower where a decoder rewrites what was
        return str(tokenizer.decode([token], skip_special_tokens=False))
    return text
