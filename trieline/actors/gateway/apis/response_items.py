"""The items of `/v1/responses`: what is said, thought, called and answered, each on its own.

A reply of ours is several of them; here they become one message again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from trieline.actors.gateway.apis.json_body import (
    MOST_CALLS,
    MOST_MESSAGES,
    MOST_PARTS,
    Id,
    Name,
    Table,
    arguments_of,
    at_most,
    expected,
    wrong,
)
from trieline.actors.gateway.apis.response_tools import INPUT, Toolbox
from trieline.common.message import Message, Role, ToolCall

_ROLES: dict[str | None, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_TEXTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_THOUGHT, _SAID, _CALLED = range(3)
"""The order of what a reply is made of."""
_PLACES = {"reasoning": _THOUGHT, "function_call": _CALLED, "custom_tool_call": _CALLED}
_ANSWERS = ("function_call_output", "custom_tool_call_output")


class Part(msgspec.Struct):
    """Of what is said or thought."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct):
    """Any of them; ids are left unread, since agents write them anew."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    name: Name | None = None
    namespace: Name | None = None
    call_id: Id | None = None
    arguments: str | Table | None = None
    input: str | None = None
    output: str | list[Part] | None = None


class _Reply:
    """The items of one reply, as far as they are read."""

    def __init__(self) -> None:
        self.reached = _THOUGHT
        self.content: str | None = None
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []

    def message(self) -> Iterator[Message]:
        """The message that they are, if there are any."""
        if self.content is not None or self.reasoning or self.calls:
            yield Message(
                role="assistant",
                content=self.content or "",
                reasoning="\n".join(self.reasoning),
                tool_calls=tuple(self.calls),
            )


def messages_of_items(items: Sequence[Item], box: Toolbox) -> Iterator[Message]:
    """What they say. Raises `BadRequestError` for what is none of them."""
    at_most(MOST_MESSAGES, len(items), "input", "items")
    reply = _Reply()
    for i, item in enumerate(items):
        at, place = f"input[{i}]", _place(item)
        if place is None or place < reply.reached or place == reply.reached == _SAID:
            yield from reply.message()
            reply = _Reply()
        if place is None:
            yield _heard(item, at)
            continue
        reply.reached = place
        if place == _THOUGHT:
            reply.reasoning += filter(None, [_text(item.content or item.summary, at)])
        elif place == _SAID:
            reply.content = _text(item.content, f"{at}.content")
        else:
            reply.calls.append(_call(item, box, at))
            at_most(MOST_CALLS, len(reply.calls), at, "calls in a reply")
    yield from reply.message()


def _place(item: Item) -> int | None:
    """Where it stands in a reply; None: it is not of one."""
    if item.type == "message" and item.role == "assistant":
        return _SAID
    return _PLACES.get(item.type)


def _heard(item: Item, at: str) -> Message:
    if item.type in _ANSWERS:
        return Message(
            role="tool", content=_text(item.output, f"{at}.output"), tool_call_id=item.call_id or ""
        )
    if item.type != "message":
        known = ", ".join(("message", *_PLACES, *_ANSWERS))
        raise expected(item.type, f"one of {known}", at=f"{at}.type")
    role = _ROLES.get(item.role)
    if role is None:
        raise expected(item.role, "one of system, developer, user, assistant", at=f"{at}.role")
    return Message(role=role, content=_text(item.content, f"{at}.content"))


def _call(item: Item, box: Toolbox, at: str) -> ToolCall:
    if item.name is None:
        raise wrong(at=f"{at}.name", why="expected the name of a tool, got none")
    arguments: dict[str, Any]
    if item.type == "custom_tool_call":
        arguments = {INPUT: item.input or ""}
    else:
        arguments = arguments_of(item.arguments, f"{at}.arguments")
    name = box.name_here(item.name, item.namespace)
    return ToolCall(name=name, arguments=arguments, id=item.call_id or "")


def _text(content: str | Sequence[Part] | None, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    at_most(MOST_PARTS, len(content), at, "parts")
    found = []
    for i, part in enumerate(content):
        if part.type not in _TEXTS:
            raise expected(part.type, "text", at=f"{at}[{i}].type")
        found.append(part.text if part.text is not None else part.refusal or "")
    return "\n".join(filter(None, found))
