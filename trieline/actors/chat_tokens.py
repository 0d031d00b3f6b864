"""The tokenizer of a model folder, in which only a chat template can write a special token.

Invariant: a special token comes from a *mark*, a spelling that nobody outside this process knows. Rendered
text has marks where the template wrote a special token, and the same letters stay letters where somebody else
wrote them (an environment, a user, a reply). So a whole conversation is tokenised at once, as models expect
it, and the output of an untrusted program can neither end its own message nor speak for others.
"""

import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tokenizers import Tokenizer

from trieline.actors.errors import ChatTemplateError
from trieline.common.arrays import Int32, Int64
from trieline.common.text import encodable

# The first of Unicode's planes for private use has a character for every special token.
_NUMBERS = 0xF0000


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
        path = folder / "tokenizer.json"
        spec = _read_spec(path)
        added = [token for token in spec.get("added_tokens") or [] if token.get("special")]
        words = [str(token["content"]) for token in added]
        # Unguessable, of characters for private use alone: no letter of a text is found in them.
        mark, guard = (f"{kind}{_nonce()}" for kind in "\ue0a0\ue0a1")
        self._marks = {text: mark + chr(_NUMBERS + i) for i, text in enumerate(words)}
        self._guards = {text: guard + chr(_NUMBERS + i) for i, text in enumerate(words)}
        self._any_special = re.compile(_one_of(words))
        self._any_mark = re.compile(f"{mark}(.)", re.DOTALL)
        self._any_mark_and_space = re.compile(f"({mark}.) ", re.DOTALL)
        self._any_guard = re.compile(f"{guard}(.)", re.DOTALL)
        self._words = words
        marked = _with_marks(spec, self._marks)
        del spec  # a whole vocabulary: the next line would hold it a second time
        self._tokenizer = _tokenizer(marked, path)
        ids = (self._tokenizer.token_to_id(self._marks[text]) for text in words)
        self._ids = [i for i in ids if i is not None]
        self._special = dict(zip(self._ids, words, strict=True))
        swallow = {i for i, token in zip(self._ids, added, strict=True) if token.get("rstrip")}
        self._any_anchor = min(self._special.keys() - swallow, default=None)
        self._puts_spaces = self._puts_spaces_after_marks()
        self._swallowing = [self.mark(i) for i in swallow if i is not None]
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def token_id(self, text: str) -> int | None:
        """The id of the special token `text`."""
        return next((i for i, special in self._special.items() if special == text), None)

    def mark(self, token_id: int) -> str:
        """The mark of a special token; nothing for other tokens."""
        return self._marks[self._special[token_id]] if token_id in self._special else ""

    def special_tokens(self, marked: str) -> Iterator[tuple[int, int]]:
        """The special tokens of marked text: the id, and where the text after it begins."""
        for found in self._any_mark.finditer(marked):
            yield self._ids[ord(found[1]) - _NUMBERS], found.end()

    def leading_special(self, marked: str) -> list[tuple[int, int]]:
        """Those that text begins with, one after the other, be it after space."""
        found: list[tuple[int, int]] = []
        end = len(marked) - len(marked.lstrip())
        while mark := self._any_mark.match(marked, end):
            end = mark.end()
            found.append((self._ids[ord(mark[1]) - _NUMBERS], end))
        return found

    def guarded(self, text: str, *, keep: Collection[str] = ()) -> str:
        """Foreign text for a template: special tokens but `keep` are letters, lone surrogates `?`."""
        text = text if text.isascii() else encodable(text, len(text))
        return self._any_special.sub(lambda m: m[0] if m[0] in keep else self._guards[m[0]], text)

    def is_guarded(self, text: str) -> bool:
        """Whether guarded text spells a special token."""
        return self._any_guard.search(text) is not None

    def marked(self, rendered: str) -> str:
        """What a template made of guarded texts, with marks for the special tokens that are its own."""
        own = self._any_special.sub(lambda m: self._marks[m[0]], rendered)
        return self._any_guard.sub(lambda m: self._words[ord(m[1]) - _NUMBERS], own)

    def plain(self, marked: str) -> str:
        """Marked text as people read it."""
        return self._any_mark.sub(lambda m: self._words[ord(m[1]) - _NUMBERS], marked)

    def token_ids(self, marked: str) -> Int32:
        """The tokens [T] of a whole text, as its beginning."""
        encoding = self._tokenizer.encode(marked, add_special_tokens=False)
        return np.asarray(encoding.ids, dtype=np.int32)

    def token_ids_after(self, token_id: int, marked: str) -> Int32:
        """As those of `encode_after`."""
        anchor = self._anchor(token_id)
        return self.token_ids(anchor + marked)[1 if anchor else 0 :]

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
        anchor = self._anchor(token_id)
        whole = self.encode(anchor + marked)
        skipped = 1 if anchor else 0
        return Encoded(
            token_ids=whole.token_ids[skipped:],
            starts=whole.starts[skipped:] - len(anchor),
            ends=whole.ends[skipped:] - len(anchor),
        )

    def decode(self, token_ids: Int32, *, leave_out: Collection[int] = ()) -> str:
        """The text of tokens, special ones spelled out. Unknown ones and `leave_out` are not in it."""
        known = [i for i in token_ids.tolist() if 0 <= i < self.vocab_size and i not in leave_out]
        return self.plain(self._tokenizer.decode(known, skip_special_tokens=False))

    def decode_marked(self, token_ids: Int32) -> str:
        """The text of tokens, with marks for special ones. Unknown ones are not in it."""
        known = [i for i in token_ids.tolist() if 0 <= i < self.vocab_size]
        text: str = self._tokenizer.decode(known, skip_special_tokens=False)
        return self._any_mark_and_space.sub(r"\1", text) if self._puts_spaces else text

    def _puts_spaces_after_marks(self) -> bool:
        """Whether every text begins with a space, also after a special token."""
        if self._any_anchor is None:
            return False
        mark = self.mark(self._any_anchor)
        decoded = self._tokenizer.decode(self.token_ids(f"{mark}x").tolist(), skip_special_tokens=False)
        return bool(decoded == f"{mark} x")

    def marks_in(self, marked: str) -> list[tuple[int, int]]:
        """Where the marks in marked text begin and end."""
        return [found.span() for found in self._any_mark.finditer(marked)]

    def without_marks(self, marked: str) -> str:
        """Marked text without its special tokens."""
        return self._any_mark.sub("", marked)

    def swallowed(self, marked: str) -> str:
        """Marked text as its tokens have it: some special tokens take the space after them in."""
        for mark in self._swallowing:
            marked = re.sub(f"{mark}\\s+", mark, marked)
        return marked

    def _anchor(self, token_id: int) -> str:
        """The mark that stands for `token_id` before a text; nothing if there are no special tokens."""
        anchor = token_id if token_id in self._special else self._any_anchor
        return "" if anchor is None else self.mark(anchor)


def _read_spec(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"expected tokenizer.json in the model folder {path.parent}, found none"
        raise ChatTemplateError(msg)
    try:
        # Half the memory that the standard library takes over a vocabulary.
        spec = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        msg = f"expected a tokenizer in {path}, got: {error}"
        raise ChatTemplateError(msg) from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        msg = f"expected a tokenizer in {path}, got no object with a model"
        raise ChatTemplateError(msg)
    return spec


def _nonce() -> str:
    return "".join(chr(0xE100 + byte) for byte in secrets.token_bytes(8))


def _one_of(words: Iterable[str]) -> str:
    """A pattern of the longest word that fits, letter by letter: some models have a thousand."""
    by_letter: dict[str, list[str]] = {}
    for word in words:
        by_letter.setdefault(word[:1], []).append(word[1:])
    is_end = by_letter.pop("", None) is not None
    longer = "|".join(re.escape(letter) + _one_of(rest) for letter, rest in by_letter.items())
    if not longer:
        return "" if is_end else r"(?!)"
    return f"(?:{longer})?" if is_end else f"(?:{longer})"


def _with_marks(spec: dict[str, Any], marks: dict[str, str]) -> bytes:
    """`tokenizer.json` with its special tokens spelled as marks, in the vocabulary too.

    Without that some models would still merge the letters of a special token into it.
    """
    for token in spec.get("added_tokens") or []:
        token["content"] = marks.get(token["content"], token["content"])
    # The post-processor would name special tokens, and adds none to a template's text.
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    model = spec["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        for word in marks.keys() & vocab.keys():
            vocab[marks[word]] = vocab.pop(word)
    elif isinstance(vocab, list):  # Unigram: pairs of piece and score
        model["vocab"] = [[marks.get(text, text), score] for text, score in vocab]
    if merges := model.get("merges"):
        model["merges"] = [merge for merge in merges if not _is_of_special(merge, marks)]
    if (unknown := model.get("unk_token")) in marks:
        model["unk_token"] = marks[unknown]
    return msgspec.json.encode(spec)


def _is_of_special(merge: str | Sequence[str], marks: Mapping[str, str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in marks or right in marks or left + right in marks


def _tokenizer(spec: bytes, path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(spec)
    except Exception as error:  # the Rust library raises plain Exception
        msg = f"expected a tokenizer in {path}, got: {error}"
        raise ChatTemplateError(msg) from error
