"""Chats to tokens and back. The one place where an environment's text becomes tokens.

Invariant: what the policy sampled is never re-tokenised. A later turn is rendered with a placeholder in place
of the reply, and only the text after the placeholder becomes tokens.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from trieline.actors.chat_template import (
    ChatTemplate,
    Message,
    read_chat_template,
    read_json,
    read_special_tokens,
)
from trieline.actors.errors import ChatTemplateError
from trieline.common.arrays import Int32

log = logging.getLogger(__name__)

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
# Nothing that templates look for in a reply (spaces to strip, tags, brackets) and nothing that people write.
_REPLY = "\ue0a0reply\ue0a0"
_EARLIER = "x"
_THINKING = "<think>\nx\n</think>\n\n"


class ChatRenderer:
    """The chat format of one model folder: tokenizer, chat template, stop tokens. No torch."""

    def __init__(self, folder: Path, *, system_prompt: str = DEFAULT_SYSTEM_PROMPT) -> None:
        """Read the folder.

        Raises:
            ChatTemplateError: no tokenizer.json, no chat template, or one that can't hold a conversation.
        """
        self._folder = folder
        self._tokenizer = _read_tokenizer(folder)
        self._template = ChatTemplate(read_chat_template(folder), read_special_tokens(folder))
        self._special_tokens = _special_token_pattern(self._tokenizer)
        self._system_prompt = system_prompt
        self._system_role = self._knows_system_role()
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.end_of_turn_id = self._end_of_turn()
        """The special token that closes a reply; None if the template closes it with plain text."""
        self.stop_ids = self._stop_ids()
        """Tokens that end a reply, the end of turn first."""
        if not self.stop_ids:
            log.warning(
                "%s names no token that ends a reply: every reply will run to its length limit", folder
            )
        if why := self._rewrites_history():
            log.warning(
                "the chat template of %s %s; earlier replies stay in the context as sampled",
                folder,
                why,
            )

    def prompt_tokens(self, observation: str) -> Int32:
        """Tokens [P] before the first reply: system prompt, first message, start of a reply."""
        return self._encode(self._render([*self._opening(self._clean(observation))]))

    def turn_tokens(self, turn: int, observation: str, *, last_token: int) -> Int32:
        """Tokens [C] between two replies: end of the previous, the message `observation`, start of the next.

        `turn` >= 1 counts the replies so far. `last_token` is the last one of the previous reply: where the
        policy sampled the end of turn itself, it is not repeated.
        """
        tokens = self._encode(self._after_reply(turn, self._clean(observation)))
        if len(tokens) and last_token == self.end_of_turn_id and tokens[0] == last_token:
            return tokens[1:]
        return tokens

    def reply_tokens(self, text: str) -> Int32:
        """Tokens [K] of a reply that a demonstrator wrote, its end of turn included."""
        tokens = self._encode(self._clean(text))
        end = self.stop_ids[:1]
        return np.concatenate([tokens, np.asarray(end, dtype=np.int32)])

    def conversation_tokens(self, messages: Sequence[Message]) -> list[tuple[Int32, bool]]:
        """A written conversation as runs of tokens: context, reply, context..., and whether each is a reply.

        Ends with the last reply. Every reply stands as in sampling: after the start of a reply, closed by the
        end of turn.

        Raises:
            ChatTemplateError: the template refuses the messages, or shows earlier turns otherwise later on.
        """
        messages = [_message(m["role"], self._clean(m["content"])) for m in messages]
        runs: list[tuple[Int32, bool]] = []
        shown = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:i])
            if not before.startswith(shown):
                msg = f"the chat template rewrites earlier turns before message {i}, which no tree can hold"
                raise ChatTemplateError(msg)
            context = self._encode(before[len(shown) :])
            if runs and len(context) and context[0] == self.end_of_turn_id:
                context = context[1:]  # it closes the reply already
            runs += [(context, False), (self.reply_tokens(message["content"]), True)]
            shown = before + message["content"]
        return runs

    def decode(self, token_ids: Int32) -> str:
        """The text of a reply, without special tokens."""
        known = token_ids[(token_ids >= 0) & (token_ids < self.vocab_size)]
        text: str = self._tokenizer.decode(known.tolist(), skip_special_tokens=True)
        return text

    def _clean(self, text: str) -> str:
        """What an environment wrote, without lone surrogates, and with special tokens spelled apart.

        The output of an untrusted program could otherwise end its own message and speak as somebody else.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._special_tokens.sub(_spelled_apart, text) if self._special_tokens else text

    def _encode(self, text: str) -> Int32:
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def _render(self, messages: Sequence[Message]) -> str:
        return self._template.render(messages, add_generation_prompt=True)

    def _opening(self, observation: str) -> list[Message]:
        if not self._system_prompt:
            return [_message("user", observation)]
        if self._system_role:
            return [_message("system", self._system_prompt), _message("user", observation)]
        return [_message("user", f"{self._system_prompt}\n\n{observation}")]

    def _after_reply(self, turn: int, observation: str) -> str:
        # The text of earlier turns is thrown away, so short stand-ins keep the cost of a turn constant.
        messages = self._opening(_EARLIER)
        for _ in range(turn - 1):
            messages += [_message("assistant", _EARLIER), _message("user", _EARLIER)]
        messages += [_message("assistant", _REPLY), _message("user", observation)]
        _, found, after = self._render(messages).partition(_REPLY)
        if not found:
            msg = f"expected the chat template of {self._folder} to show a reply as it was written, got none"
            raise ChatTemplateError(msg)
        return after

    def _knows_system_role(self) -> bool:
        """Some templates refuse a system message; others leave it out, which is theirs to decide."""
        try:
            shown = self._render([_message("system", _REPLY), _message("user", _EARLIER)])
        except ChatTemplateError:
            return False
        if self._system_prompt and _REPLY not in shown:
            log.warning("the chat template of %s leaves the system prompt out", self._folder)
        return True

    def _end_of_turn(self) -> int | None:
        tokens = self._encode(self._after_reply(1, _EARLIER))
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return int(tokens[0]) if len(tokens) and int(tokens[0]) in special else None

    def _stop_ids(self) -> tuple[int, ...]:
        found: list[int | None] = [self.end_of_turn_id]
        generation = read_json(self._folder / "generation_config.json").get("eos_token_id", [])
        found += generation if isinstance(generation, list) else [generation]
        if eos := read_special_tokens(self._folder).get("eos_token"):
            found.append(self._tokenizer.token_to_id(eos))
        return tuple(dict.fromkeys(i for i in found if isinstance(i, int)))

    def _rewrites_history(self) -> str:
        """How the template treats earlier replies differently from the newest one; empty if it doesn't."""
        opening = self._opening(_EARLIER)
        for reply, why in (
            (_EARLIER, "rewrites earlier turns"),
            (f"{_THINKING}{_EARLIER}", "drops earlier thinking"),
        ):
            later = [*opening, _message("assistant", reply), _message("user", _EARLIER)]
            if not self._render(later).startswith(self._render(opening) + reply):
                return why
        return ""


def _spelled_apart(found: "re.Match[str]") -> str:
    return "\u200b".join(found[0]) if len(found[0]) > 1 else "\ufffd"


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


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


def _special_token_pattern(tokenizer: Tokenizer) -> "re.Pattern[str] | None":
    words = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if words else None
