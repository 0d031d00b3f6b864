"""The tokenizer of a model folder, in which only a chat template can write a special token.

Invariant: a special token comes from a *mark*, a spelling that nobody outside this process knows. Rendered
text has marks where the template wrote a special token, and the same letters stay letters where somebody else
wrote them (an environment, a user, a reply). So a whole conversation is tokenised at once, as models expect
it, and the output of an untrusted program can neither end its own message nor speak for others.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trieline.actors.errors import ChatTemplateError
from trieline.common.arrays import Int32, Int64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """T tokens and where in the text they come from."""

    token_ids: Int32
    """[T]"""
    starts: Int64
    """[T] first character of each."""
    ends: Int64
    """[T] one past the last character of each."""


class ChatTokenizer:
    """Marked text to tokens, and tokens to text."""

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.json`.

        Raises:
            ChatTemplateError: there is none, or it can't be used.
        """
        tokenizer = _read_tokenizer(folder)
        nonce = secrets.token_hex(8)
        added = tokenizer.get_added_tokens_decoder()
        self._special = {i: token.content for i, token in added.items() if token.special}
        self._marks = {text: f"\ue0a0{nonce}.{i}\ue0a1" for i, text in self._special.items()}
        self._guards = {text: f"\ue0a2{nonce}.{i}\ue0a3" for i, text in self._special.items()}
        self._swallow = {i for i, token in added.items() if token.rstrip}
        self._any_special = _one_of(self._special.values())
        self._any_guard = re.compile(f"\ue0a2{nonce}\\.(\\d+)\ue0a3")
        self.any_mark = re.compile(f"\ue0a0{nonce}\\.(\\d+)\ue0a1")
        """Matches a mark; its group is the token's id."""
        self._tokenizer = _with_marks(tokenizer, self._marks, folder)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def token_id(self, text: str) -> int | None:
        """The id of the special token `text`."""
        return next((i for i, special in self._special.items() if special == text), None)

    def mark(self, token_id: int) -> str:
        """The mark of a special token; nothing for other tokens."""
        return self._marks[self._special[token_id]] if token_id in self._special else ""

    def guarded(self, text: str, *, keep: Collection[str] = ()) -> str:
        """Foreign text for a template: special tokens but `keep` are letters, lone surrogates `?`."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._any_special.sub(lambda m: m[0] if m[0] in keep else self._guards[m[0]], text)

    def marked(self, rendered: str) -> str:
        """What a template made of guarded texts, with marks for the special tokens that are its own."""
        own = self._any_special.sub(lambda m: self._marks[m[0]], rendered)
        return self._any_guard.sub(lambda m: self._special[int(m[1])], own)

    def plain(self, marked: str) -> str:
        """Marked text as people read it."""
        return self.any_mark.sub(lambda m: self._special[int(m[1])], marked)

    def encode(self, marked: str) -> Encoded:
        """A whole text, as its beginning."""
        encoding = self._tokenizer.encode(marked, add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Encoded(
            token_ids=np.asarray(encoding.ids, dtype=np.int32), starts=offsets[:, 0], ends=offsets[:, 1]
        )

    def encode_after(self, token_id: int, marked: str) -> Encoded:
        """Text that follows `token_id`: what some tokenizers put before the first word is not there.

        Of tokens that aren't special only that they are there counts.
        """
        anchors = [token_id] if token_id in self._special else []
        anchors += sorted(self._special.keys() - self._swallow)
        if not anchors:
            return self.encode(marked)
        anchor = self.mark(anchors[0])
        whole = self.encode(anchor + marked)
        return Encoded(
            token_ids=whole.token_ids[1:],
            starts=whole.starts[1:] - len(anchor),
            ends=whole.ends[1:] - len(anchor),
        )

    def decode(self, token_ids: Int32, *, leave_out: Collection[int] = ()) -> str:
        """The text of tokens, special ones spelled out. Unknown ones and `leave_out` are not in it."""
        known = [i for i in token_ids.tolist() if 0 <= i < self.vocab_size and i not in leave_out]
        return self.plain(self._tokenizer.decode(known, skip_special_tokens=False))


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        msg = f"expected tokenizer.json in the model folder {folder}, found none"
        raise ChatTemplateError(msg)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        msg = f"expected a tokenizer in {path}, got: {error}"
        raise ChatTemplateError(msg) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _one_of(words: Iterable[str]) -> "re.Pattern[str]":
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) if longest_first else r"(?!)")


def _with_marks(tokenizer: Tokenizer, marks: dict[str, str], folder: Path) -> Tokenizer:
    """The same tokenizer with its special tokens spelled as marks, in the vocabulary too.

    Without that some models would still merge the letters of a special token into it.
    """
    if not marks:
        return tokenizer
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["content"] = marks.get(token["content"], token["content"])
    # It would name special tokens, and adds none to a template's text.
    spec["post_processor"] = None
    model = spec["model"]
    if isinstance(vocab := model["vocab"], dict):
        model["vocab"] = {marks.get(text, text): i for text, i in vocab.items()}
    else:  # Unigram: pairs of piece and score
        model["vocab"] = [[marks.get(text, text), score] for text, score in vocab]
    if merges := model.get("merges"):
        pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in merges]
        model["merges"] = [p for p in pairs if not {p[0], p[1], p[0] + p[1]} & marks.keys()]
    if (unknown := model.get("unk_token")) in marks:
        model["unk_token"] = marks[unknown]
    try:
        marked = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # as above
        msg = f"expected a tokenizer whose special tokens can be told from text in {folder}, got: {error}"
        raise ChatTemplateError(msg) from error
    if moved := [t for t, mark in marks.items() if marked.token_to_id(mark) != tokenizer.token_to_id(t)]:
        msg = f"expected special tokens with ids of their own in {folder}, got {moved[:4]}"
        raise ChatTemplateError(msg)
    return marked
