"""The messages in the tokens of a sequence: what the chat template made of them, taken apart again.

The inverse of `written_chat`, for those who train on text. Who wrote a token decides first: what the policy
sampled is a reply, whatever it spells, and only in the context do special tokens begin messages. Calls are
read where the template has told of tools, in the notation of the model.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trieline.actors.errors import ChatTemplateError, ConversationError
from trieline.actors.message_frames import frames_of
from trieline.actors.shown_chat import SENTINEL, THINKING, ShownChat
from trieline.actors.tool_speech import ToolSpeech
from trieline.actors.written_chat import Runs
from trieline.common.message import Message, Role, Tool, ToolCall, user_message
from trieline.envs.tool_calls import json_value

MOST_TRIED = 2_000
"""Places in an opening where a tool is looked for."""
_SYSTEM = SENTINEL.replace("text", "system")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadChat:
    """A conversation."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(kw_only=True, slots=True)
class _Piece:
    """A message as it is being read. Marked text."""

    role: Role
    text: str = ""
    opened: str = ""
    """What began it."""
    said: int | None = None
    """Of a reply, the length of its text up to where the policy stopped."""
    due: str = ""
    """Of a reply, what the template shows at its beginning and the policy may have written."""


class ChatReader:
    """Reads the sequences of one model. What it costs to find out how is paid once."""

    def __init__(self, folder: Path, template_kwargs: Mapping[str, Any] | None = None) -> None:
        """Read the folder.

        Raises:
            ChatTemplateError: it has no usable tokenizer or chat template, or one that marks no messages by
                special tokens.
        """
        self._chat = ShownChat(folder, template_kwargs or {})
        self._tokens = self._chat.tokens
        self._frames = frames_of(self._chat)
        self._speech = ToolSpeech(self._chat)
        self._thinks = [self._tokens.marked(opens) for opens in THINKING]
        self._begins = re.compile("|".join(map(re.escape, _longest_first(self._frames.opens))))
        self._stops = [self._tokens.mark(i) for i in self._chat.stop_ids]
        closes = {c.rstrip() for c in self._frames.closes.get("assistant", ())}
        self._ends = [c for c in _longest_first(closes) if self._tokens.marks_in(c)]

    def read(self, runs: Runs) -> ReadChat:
        """The messages of a sequence, given as tokens and whether the policy sampled them, in turn.

        Raises:
            ConversationError: it is not what the chat template shows.
        """
        joined = [(self._tokens.decode_marked(ids), sampled) for ids, sampled in _joined(runs)]
        pieces: list[_Piece] = []
        carried = ""
        for number, (text, sampled) in enumerate(joined):
            if sampled:
                carried = self._add_reply(pieces, text)
            else:
                first = "" if number else self._first(pieces, text)
                self._add_context(pieces, carried + text[len(first) :], asked=number + 1 < len(joined))
                carried = ""
        self._close(pieces)
        return self._read(pieces, joined[0][0])

    def _first(self, pieces: list[_Piece], text: str) -> str:
        """Begin the first message. Returns what began it."""
        found = next((f for f in _longest_first(self._frames.first) if f and text.startswith(f)), "")
        if found:
            pieces.append(_Piece(role=self._frames.first[found], opened=found))
        return found

    def _add_reply(self, pieces: list[_Piece], text: str) -> str:
        """Returns the special tokens that end it."""
        if not pieces or pieces[-1].role != "assistant":
            msg = (
                "expected the start of a reply before sampled tokens, got none that the chat template writes"
            )
            raise ConversationError(msg)
        if pieces[-1].said is None:
            text = text.removeprefix(pieces[-1].due)
        ending = next((c for c in self._ends if text.endswith(c)), "")
        text = text.removesuffix(ending)
        while stop := next((s for s in self._stops if s and text.endswith(s)), ""):
            text, ending = text.removesuffix(stop), stop + ending
        pieces[-1].text += text
        pieces[-1].said = len(pieces[-1].text)
        return ending

    def _add_context(self, pieces: list[_Piece], text: str, *, asked: bool) -> None:
        """Messages, and the start of a reply if one is `asked` for."""
        begun = ""
        if asked:
            found = next((g for g in _longest_first(self._frames.replies) if text.endswith(g)), None)
            if found is None:
                self._add_to_reply(pieces, text)
                return
            begun = found
        body = text[: len(text) - len(begun)]
        at = 0
        for match in self._begins.finditer(body):
            self._extend(pieces, body[at : match.start()])
            self._close(pieces)
            pieces.append(_Piece(role=self._frames.opens[match[0]], opened=match[0]))
            at = match.end()
        self._extend(pieces, body[at:])
        if asked:
            self._begin_reply(pieces, begun)

    def _begin_reply(self, pieces: list[_Piece], begun: str) -> None:
        """`begun` is the start of a reply that the template wrote, of which thinking is a part."""
        if not (pieces and pieces[-1].role == "assistant" and not pieces[-1].text):
            self._close(pieces)
            pieces.append(_Piece(role="assistant"))
        thinking = next((i for i in (begun.rfind(opens) for opens in self._thinks) if i >= 0), len(begun))
        header, prefill = begun[:thinking], begun[thinking:]
        starts = _longest_first(self._frames.starts)
        start = next((s for s in starts if header.startswith(s)), "")
        longer = next((s for s in starts if s.startswith(header)), header)
        plain = not prefill and not any(opens in longer for opens in self._thinks)
        pieces[-1].due = longer[len(header) :] if plain else ""
        pieces[-1].text = prefill if longer != header or not start else header[len(start) :] + prefill

    def _add_to_reply(self, pieces: list[_Piece], text: str) -> None:
        """Context that was written into the middle of a reply."""
        if not pieces or pieces[-1].role != "assistant" or self._begins.search(text):
            msg = f"expected the start of a reply, got {self._tokens.plain(text)[-80:]!r}"
            raise ConversationError(msg)
        pieces[-1].text += text

    def _extend(self, pieces: list[_Piece], text: str) -> None:
        if pieces:
            pieces[-1].text += text

    def _close(self, pieces: list[_Piece]) -> None:
        """Take from the newest message what the template closes it with."""
        if not pieces:
            return
        piece = pieces[-1]
        said, tail = piece.text[: piece.said or 0], piece.text[piece.said or 0 :]
        closes = _longest_first(self._frames.closes.get(piece.role, ()))
        tail = next((tail.removesuffix(c) for c in closes if c and tail.endswith(c)), tail)
        if piece.said is not None and not self._tokens.without_marks(tail).strip():
            tail = ""
        piece.text, piece.said = said + tail, None
        if piece.role == "tool":
            for parts in self._frames.between_answers:
                piece.text, *others = piece.text.split(parts)
                pieces += [_Piece(role="tool", text=text, opened=piece.opened) for text in others]

    def _read(self, pieces: Sequence[_Piece], beginning: str) -> ReadChat:
        """The messages, with the tools and calls that are told in them."""
        messages = [Message(role=p.role, content=self._tokens.plain(p.text)) for p in pieces]
        told = self._told(beginning)
        if told is None:
            known = any(f and beginning.startswith(f) for f in self._frames.first)
            first = self._begins.search(beginning)
            before = self._tokens.without_marks(beginning[: first.start()] if first else beginning)
            if before.strip() and not known:
                msg = f"expected a message at the beginning, got {before[:80]!r}"
                raise ConversationError(msg)
            return ReadChat(messages=tuple(messages))
        tools, read = told
        replaced = [m.role for m in messages].index("user")
        waiting: list[ToolCall] = []
        for piece, message in list(zip(pieces, messages, strict=True))[replaced:]:
            if message.role == "assistant":
                message = self._with_calls(message, tools)
                waiting = list(message.tool_calls)
            elif message.role == "tool":
                call = waiting.pop(0) if waiting else ToolCall(name="")
                content = _unquoted(message.content) if piece.opened.endswith('"') else message.content
                message = Message(role="tool", content=content, name=call.name, tool_call_id=call.id)
            read.append(message)
        return ReadChat(messages=tuple(read), tools=tuple(tools))

    def _told(self, beginning: str) -> tuple[list[Tool], list[Message]] | None:
        """The tools before the first message of the user, and what else the template was told to say there.

        None: there are none, or this template tells them otherwise.
        """
        users = (m for m in self._begins.finditer(beginning) if self._frames.opens[m[0]] == "user")
        if (first := next(users, None)) is None:
            return None
        opening = beginning[: first.end()]
        tools = list(_tools_in(self._tokens.plain(opening)))
        if not tools or self._speech.format is None:
            return None
        if self._shown([], tools) == opening:
            return tools, []
        before, found, after = self._shown([Message(role="system", content=_SYSTEM)], tools).partition(
            _SYSTEM
        )
        whole = len(before) + len(after) <= len(opening)
        if found and whole and opening.startswith(before) and opening.endswith(after):
            said = self._tokens.plain(opening[len(before) : len(opening) - len(after)])
            return tools, [Message(role="system", content=said)]
        return None

    def _shown(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """What stands before the first message of the user; nothing if the template refuses them."""
        try:
            shown = self._chat.render([*messages, user_message(SENTINEL)], tools, prompt=False)
        except ChatTemplateError:
            return ""
        return self._tokens.swallowed(shown.partition(SENTINEL)[0])

    def _with_calls(self, message: Message, tools: Sequence[Tool]) -> Message:
        form = self._speech.format
        written = form.read(message.content, tools) if form is not None else None
        if written is None or not written.calls or written.broken:
            return message
        return Message(role="assistant", content=written.content, tool_calls=written.calls)


def _joined(runs: Runs) -> Runs:
    """Runs of which none has the author of its neighbour."""
    groups = groupby(runs, key=lambda run: run[1])
    return [(np.concatenate([ids for ids, _ in run]), sampled) for sampled, run in groups]


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=len, reverse=True)


def _tools_in(text: str) -> Iterator[Tool]:
    """Functions as JSON, alone or in lists."""
    at = 0
    for _ in range(MOST_TRIED):
        found = re.compile(r"[{\[]").search(text, at)
        if found is None:
            return
        try:
            value, at = json_value(text, found.start())
        except ValueError:
            at = found.end()
            continue
        for tool in value if isinstance(value, list) else [value]:
            function = tool.get("function") if isinstance(tool, dict) else None
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                yield tool


def _unquoted(text: str) -> str:
    """What stood in JSON's quotes."""
    try:
        value = json.loads(f'"{text}"')
    except ValueError:
        return text
    return str(value)
