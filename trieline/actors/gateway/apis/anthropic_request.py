"""The body of `/v1/messages`, and of `/v1/messages/count_tokens`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trieline.actors.gateway.apis.fields import Refused, say_once, say_unknown
from trieline.actors.gateway.apis.functions import all_different, choice_among, function_tool, with_names
from trieline.actors.gateway.apis.json_body import (
    MOST_CALLS,
    MOST_MESSAGES,
    MOST_PARTS,
    Id,
    Name,
    Stop,
    Table,
    at_most,
    converted,
    expected,
    record_of,
    within_bounds,
    wrong,
)
from trieline.actors.gateway.apis.sampling import ModelName, Sampling, sampling_of
from trieline.actors.gateway.asked import Asked
from trieline.actors.gateway.harness_marks import declared, without_marks
from trieline.common.message import Message, Tool, ToolCall

WITHOUT_EFFECT: dict[str, str] = {
    "metadata": "who asks is told by the key",
    "service_tier": "there is one",
    "inference_geo": "there is one place",
    "speed": "there is one",
    "cache_control": "the cache is kept by tokens",
    "thinking": "a policy has learnt how long to think",
    "context_management": "the conversation is taken as it is sent",
    "betas": "each field is taken as it is sent",
    "diagnostics": "there are none",
    "user_profile_id": "who asks is told by the key",
    "workspace_id": "who asks is told by the key",
}
"""Fields that may be sent, with the reason why nothing comes of them. Of `output_config`, `effort`."""

REFUSED = Refused(container=(), mcp_servers=(), compaction=(), thread=(), fallbacks=())
"""Fields that would change the reply, with the values that ask for nothing."""


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: Id | None = None
    name: Name | None = None
    input: Any = None
    tool_use_id: Id | None = None
    content: Any = None
    is_error: bool | None = None


_Content = str | Sequence[_Block] | None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block] | None = None


class _Tool(msgspec.Struct):
    name: Name | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Table | None = None


class _Choice(msgspec.Struct):
    type: str
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class _Format(msgspec.Struct):
    type: str
    schema: Table | None = None


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Body(Sampling):
    model: ModelName
    messages: list[_Message]
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    stop_sequences: list[Stop] | None = None
    max_tokens: int | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What it asks for. Raises `BadRequestError`, whatever it is."""
    asked = record_of(body, _Body)
    REFUSED.check(body)
    say_unknown("messages", body, (*_Body.__struct_fields__, *WITHOUT_EFFECT, *REFUSED.neutral))
    if not asked.messages:
        raise wrong(at="messages", why="expected at least one, got none")
    at_most(MOST_MESSAGES, len(asked.messages), "messages", "messages")
    tools = all_different(list(_tools(asked.tools or ())))
    system = _text(asked.system, "system", system=True)
    said = [Message(role="system", content=system)] if system else []
    for i, message in enumerate(asked.messages):
        said += _messages(message, f"messages[{i}]")
    choice = asked.tool_choice
    return Asked(
        model=asked.model,
        messages=with_names(said),
        tools=tools,
        tool_choice=_choice(choice, tools),
        parallel_calls=not (choice and choice.disable_parallel_tool_use),
        response_schema=_schema(asked),
        declared=declared(headers, said),
        **sampling_of(asked, asked.max_tokens, asked.stop_sequences),
    )


def _messages(message: _Message, at: str) -> Iterator[Message]:
    at_content = f"{at}.content"
    if message.role == "system":
        yield Message(role="system", content=_text(message.content, at_content, system=True))
    elif message.role == "user":
        yield from _of_user(message.content, at_content)
    elif message.role == "assistant":
        yield _of_assistant(_blocks(message.content, at_content), at_content)
    else:
        raise expected(message.role, "one of user, assistant, system", at=f"{at}.role")


def _blocks(content: _Content, at: str) -> Sequence[_Block]:
    if content is None or isinstance(content, str):
        return [_Block(type="text", text=content or "")]
    at_most(MOST_PARTS, len(content), at, "blocks")
    return content


def _of_user(content: _Content, at: str) -> Iterator[Message]:
    """Results of tools are messages of their own, and what the user says between them is too."""
    words: list[_Block] = []
    heard = False
    for i, block in enumerate(_blocks(content, at)):
        if block.type != "tool_result":
            words.append(block)
            continue
        if words:
            yield Message(role="user", content=_text(words, at))
            words = []
        heard = True
        yield _result(block, f"{at}[{i}]")
    if words or not heard:
        yield Message(role="user", content=_text(words, at))


def _result(block: _Block, at: str) -> Message:
    content = converted(block.content, str | list[_Block] | None, f"{at}.content")
    said = _text(content, f"{at}.content")
    # Only here an API says beside the text that something went wrong.
    return Message(
        role="tool",
        content=f"Error: {said}" if block.is_error else said,
        tool_call_id=block.tool_use_id or "",
    )


def _of_assistant(blocks: Sequence[_Block], at: str) -> Message:
    words, thoughts, calls = [], [], []
    for i, block in enumerate(blocks):
        if block.type == "tool_use":
            calls.append(_call(block, f"{at}[{i}]"))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking":  # which nobody can read
            words.append(block)
    at_most(MOST_CALLS, len(calls), at, "calls")
    return Message(
        role="assistant",
        content=_text(words, at),
        reasoning="\n".join(filter(None, thoughts)),
        tool_calls=tuple(calls),
    )


def _call(block: _Block, at: str) -> ToolCall:
    if block.name is None:
        raise wrong(at=f"{at}.name", why="expected the name of a tool, got none")
    if not isinstance(block.input, dict | None):
        raise expected(block.input, "an object", at=f"{at}.input")
    return ToolCall(
        name=block.name, arguments=within_bounds(block.input or {}, f"{at}.input"), id=block.id or ""
    )


def _text(content: _Content, at: str, *, system: bool = False) -> str:
    found = []
    for i, block in enumerate(_blocks(content, at)):
        if block.type != "text":
            raise expected(block.type, "text", at=f"{at}[{i}].type")
        found.append(block.text or "")
    return "\n".join(filter(None, without_marks(found) if system else found))


def _tools(tools: Sequence[_Tool]) -> Iterator[Tool]:
    for i, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            say_once("messages", tool.type or "", "is a tool of the API's own: it is left out")
        elif tool.name is None:
            raise wrong(at=f"tools[{i}].name", why="expected a name, got none")
        else:
            at = f"tools[{i}].input_schema"
            yield function_tool(tool.name, tool.description, tool.input_schema, at)


def _choice(choice: _Choice | None, tools: Sequence[Tool]) -> str:
    if choice is None:
        return "auto"
    if choice.type == "tool" and choice.name is not None:
        return choice_among(tools, f"function:{choice.name}")
    if choice.type not in _CHOICES:
        raise expected(choice.type, "auto, any, none, or tool with its name", at="tool_choice.type")
    return choice_among(tools, _CHOICES[choice.type])


def _schema(asked: _Body) -> Table | None:
    form = (asked.output_config.format if asked.output_config else None) or asked.output_format
    if form is None:
        return None
    if form.type != "json_schema" or form.schema is None:
        raise expected(form.type, "json_schema with a schema", at="output_config.format.type")
    return dict(within_bounds(form.schema, "output_config.format.schema"))
