"""A conversation that somebody wrote, as paths of tokens, and what the chat template leaves out of it.

Tokens are those of the whole text at once. Only where a reply's first letters would grow into one token with
the end of the prompt are the two tokenised apart, as they are when the reply is sampled.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from trieline.actors.chat_tokens import ChatTokenizer, Encoded
from trieline.actors.errors import ChatTemplateError
from trieline.actors.shown_chat import SENTINEL, ShownChat
from trieline.common.arrays import Int32
from trieline.common.message import Message, Tool

Runs = list[tuple[Int32, bool]]
"""Tokens from the root to a leaf, and whether they are trained on, in turn."""


def written_paths(
    chat: ShownChat, messages: Sequence[Message], tools: Sequence[Tool], trained: Sequence[bool]
) -> list[Runs]:
    """The paths of a conversation; each reply that is trained on is so on one path.

    Raises:
        ChatTemplateError: the template leaves out a message or what it says.
    """
    last = max(i for i, is_trained in enumerate(trained) if is_trained)
    _expect_all_shown(chat, messages[: last + 1], tools)
    paths: list[list[tuple[str, bool]]] = []
    shown = ""
    for i in range(last + 1):
        if not trained[i]:
            continue
        reply = chat.reply(messages[: i + 1], tools)
        if not reply.before:
            msg = f"the chat template shows nothing before messages[{i}]"
            raise ChatTemplateError(msg)
        if not paths or not reply.before.startswith(shown):
            paths.append([])
            shown = ""
        context = reply.before[len(shown) :]
        for token_id, end in chat.tokens.leading_special(context)[:1]:
            if paths[-1] and paths[-1][-1][0].endswith(chat.tokens.mark(token_id)):
                context = context[end:]  # it closes the reply already
        paths[-1] += [(context, False), (reply.text, True)]
        shown = reply.shown
    return [token_runs(chat.tokens, runs) for runs in paths]


def _expect_all_shown(chat: ShownChat, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    """Raise ChatTemplateError, naming the first message or field that the template leaves out.

    A system message is the exception: some templates have no place for it, and that is said once.
    """
    # What answers a call is named by it; elsewhere a name says who speaks.
    named = [m.name for m in messages if m.role != "tool"]
    fields = {
        "tools": (bool(tools), messages, ()),
        "tool_calls": (
            any(m.tool_calls for m in messages),
            [msgspec.structs.replace(m, tool_calls=()) for m in messages],
            tools,
        ),
        "name": (
            any(named),
            [m if m.role == "tool" else msgspec.structs.replace(m, name="") for m in messages],
            tools,
        ),
    }
    whole = chat.render(messages, tools, prompt=False)
    left_out = [
        field
        for field, (is_there, without, tools_without) in fields.items()
        if is_there and _same_text(chat, whole, without, tools_without)
    ]
    if left_out:
        msg = f"the chat template does not show {' and '.join(left_out)}"
        raise ChatTemplateError(msg)
    _expect_contents_shown(chat, messages, tools)


def _same_text(chat: ShownChat, whole: str, messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    try:
        return chat.render(messages, tools, prompt=False) == whole
    except ChatTemplateError:
        return False


def _expect_contents_shown(chat: ShownChat, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    marks = [SENTINEL.replace("text", f"text{i}.") for i in range(len(messages))]
    try:
        shown = chat.render(
            [
                msgspec.structs.replace(message, content=mark) if message.content else message
                for message, mark in zip(messages, marks, strict=True)
            ],
            tools,
            prompt=False,
        )
    except ChatTemplateError:
        return  # it looks into the contents, and has shown them as they are
    for i, (message, mark) in enumerate(zip(messages, marks, strict=True)):
        if not message.content or mark in shown:
            continue
        if message.role != "system":
            msg = f"the chat template leaves out the content of messages[{i}] (role {message.role})"
            raise ChatTemplateError(msg)
        chat.say_once("the chat template leaves out system messages")


def token_runs(tokens: ChatTokenizer, runs: Sequence[tuple[str, bool]]) -> Runs:
    """Runs of marked text, tokenised at once."""
    text = "".join(run for run, _ in runs)
    ends = np.cumsum([len(run) for run, _ in runs])
    is_trained = np.repeat([trained for _, trained in runs], [len(run) for run, _ in runs])
    replies = [int(end) - len(run) for end, (run, trained) in zip(ends, runs, strict=True) if trained]
    encoded = tokens.encode(text)
    pieces = [encoded]
    if cuts := [start for start in replies if _straddles(encoded, start)]:
        pieces = _encode_apart(tokens, text, cuts)
    token_ids = np.concatenate([piece.token_ids for piece in pieces])
    starts = np.concatenate([piece.starts for piece in pieces])
    by_policy = is_trained[np.minimum(starts, len(text) - 1)]
    edges = np.flatnonzero(np.diff(by_policy)) + 1
    parts = zip(np.split(token_ids, edges), by_policy[[0, *edges]].tolist(), strict=True)
    return list(parts)


def _straddles(encoded: Encoded, start: int) -> bool:
    """Whether a token holds characters on both sides of `start`."""
    first = int(np.searchsorted(encoded.starts, start))
    return first > 0 and bool(encoded.ends[first - 1] > start)


def _encode_apart(tokens: ChatTokenizer, text: str, cuts: Sequence[int]) -> list[Encoded]:
    pieces = [tokens.encode(text[: cuts[0]])]
    for start, end in itertools.pairwise([*cuts, len(text)]):
        piece = tokens.encode_after(int(pieces[-1].token_ids[-1]), text[start:end])
        pieces.append(replace(piece, starts=piece.starts + start, ends=piece.ends + start))
    return pieces
