"""Where a completion's text comes to a stop string. The engine has tokens alone, text is their decoding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Decode = Callable[[list[int]], str]
"""Token ids to text, special tokens by their names."""

# Tokens decoded beside those that a match can span: the first ones of a run may lose a space or half a
# character of several bytes.
CONTEXT = 8


def tokenizer_decode(folder: Path) -> Decode | None:
    """The decoder of the tokenizer in a model's folder; None if the folder has none."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(path))
    return lambda token_ids: str(tokenizer.decode(token_ids, skip_special_tokens=False))


class StopText:
    """Asked after every token, so that a match always ends in the newest one."""

    def __init__(self, strings: tuple[str, ...], decode: Decode) -> None:
        self._strings = strings
        self._decode = decode
        # A token is at least one byte of text.
        self._span = max(len(text.encode()) for text in strings) + CONTEXT

    def found(self, sampled: npt.NDArray[np.int32]) -> str:
        """The string that the text of `sampled` has come to, the first to begin if several; "" if none."""
        text = self._decode(sampled[-self._span :].tolist())
        places = [(place, one) for one in self._strings if (place := text.find(one)) >= 0]
        return min(places)[1] if places else ""
