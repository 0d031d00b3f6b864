"""What a chat template puts around the messages of each role, found out by showing it some.

A frame counts only if it holds a special token, which nothing but the template can write: so no text of a
message passes for the end of it and the beginning of another. The beginning of a conversation needs none: it
is known where that is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from trieline.actors.errors import ChatTemplateError
from trieline.actors.shown_chat import FILLER, SENTINEL, ShownChat, offered
from trieline.common.message import Message, Role, ToolCall, user_message
from trieline.envs.tool_calls import call_id

_CALLS = tuple(ToolCall(name="look_up", arguments={"word": FILLER}, id=call_id(n)) for n in range(2))
# Between them they have every role after every other that is usual. Those of the user come first: a template
# without a system message shows one as the user's.
_PROBES: tuple[tuple[Role, ...], ...] = (
    ("user", "assistant", "user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("developer", "user"),
    ("user", "assistant", "system", "user"),
    ("user", "user"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Marked texts."""

    first: dict[str, Role] = field(default_factory=dict)
    """What a conversation begins with, and whose its first message is then."""
    opens: dict[str, Role] = field(default_factory=dict)
    """What begins a message; what ended the one before may be a part of it."""
    closes: dict[Role, set[str]] = field(default_factory=dict)
    """What may stand behind a message."""
    replies: set[str] = field(default_factory=set)
    """What stands behind a message that is closed where a reply is asked for."""
    starts: set[str] = field(default_factory=set)
    """What begins a reply that was given."""
    between_answers: set[str] = field(default_factory=set)
    """What parts the answers of tools where that is no special token. No answer holds it (`tool_speech`)."""


def frames_of(chat: ShownChat) -> Frames:
    """Those of a template.

    Raises:
        ChatTemplateError: it marks no messages by special tokens.
    """
    frames = Frames()
    for roles in _PROBES:
        for count in range(1, len(roles) + 1):
            _learn(chat, roles[:count], frames)
    for count in (1, 2):
        _learn_answers(chat, count, frames)
    if "user" not in frames.opens.values():
        msg = f"the chat template of {chat.folder} marks no message by special tokens: none can be read back"
        raise ChatTemplateError(msg)
    return frames


def _learn(chat: ShownChat, roles: Sequence[Role], frames: Frames) -> None:
    """Add what a conversation of these roles shows, if the template takes it."""
    marks = [SENTINEL.replace("text", f"text{i}.") for i in range(len(roles))]
    messages = [Message(role=role, content=mark) for role, mark in zip(roles, marks, strict=True)]
    try:
        shown = chat.tokens.swallowed(chat.render(messages, prompt=False))
        asked = chat.tokens.swallowed(chat.render(messages, prompt=True))
    except ChatTemplateError:
        return
    parts, rest = [], shown
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            return
        parts.append(before)
    for (role, later), between in zip(pairwise(roles), parts[1:], strict=True):
        closing = _shared_beginning(chat, rest, between)
        opening = between[len(closing) :]
        framed = next((text for text in (opening, between) if chat.tokens.marks_in(text)), None)
        if framed is None:
            return  # one message to who reads it
        frames.opens.setdefault(framed, later)
        frames.closes.setdefault(role, set()).add(closing)
        if later == "assistant":
            frames.starts.add(opening)
    frames.first.setdefault(parts[0], roles[0])
    if chat.tokens.marks_in(parts[0]):
        frames.opens.setdefault(parts[0], roles[0])
    if roles[-1] == "assistant":
        frames.closes.setdefault("assistant", set()).add(rest)
    else:
        _learn_reply(chat, roles[-1], rest, asked.rpartition(marks[-1])[2], frames)


def _learn_reply(chat: ShownChat, role: Role, end: str, asked: str, frames: Frames) -> None:
    """`end` stands behind the last message, `asked` where a reply is asked for."""
    closing = _shared_beginning(chat, end, asked)
    frames.closes.setdefault(role, set()).add(closing)
    frames.replies.add(asked[len(closing) :])


def _learn_answers(chat: ShownChat, count: int, frames: Frames) -> None:
    """Add what stands around the answers of tools."""
    calls = _CALLS[:count]
    marks = [SENTINEL.replace("text", f"text{i}.") for i in range(count)]
    answers = [
        Message(role="tool", content=mark, name=call.name, tool_call_id=call.id)
        for call, mark in zip(calls, marks, strict=True)
    ]
    asking = [user_message(FILLER), Message(role="assistant", tool_calls=calls)]
    try:
        after = chat.tokens.swallowed(chat.after_calls(asking, answers))
        shown = chat.tokens.swallowed(
            chat.render([*asking, *answers], [offered(calls[0].name)], prompt=False)
        )
    except ChatTemplateError:
        return
    if any(mark not in after for mark in marks):
        return
    before, rest = after.partition(marks[0])[::2]
    closes = sorted(frames.closes.get("assistant", ()), key=len, reverse=True)
    opening = before[len(next((c for c in closes if before.startswith(c)), "")) :]
    if not chat.tokens.marks_in(opening):
        return
    frames.opens.setdefault(opening, "tool")
    end = shown.rpartition(marks[-1])[2]
    if count == 1:
        _learn_reply(chat, "tool", end, rest, frames)
        return
    between = rest.partition(marks[1])[0]
    opening = between[len(_shared_beginning(chat, end, between)) :]
    if chat.tokens.marks_in(opening):
        frames.opens.setdefault(opening, "tool")
    elif between.strip():
        frames.between_answers.add(between)


def _shared_beginning(chat: ShownChat, one: str, other: str) -> str:
    """The longest beginning of `other` that `one` has too and that breaks no mark."""
    pairs = enumerate(zip(one, other, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    for start, stop in chat.tokens.marks_in(other):
        if start < length < stop:
            length = start
    return other[:length]
