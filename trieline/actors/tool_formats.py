"""The notations in which published models write tool calls, and the calls in what one has written."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from trieline.common.message import Tool, ToolCall
from trieline.envs.tool_calls import CLOSES, MOST_CALLS, OPENS, call_of, json_value, read_calls

_PYTHON_TAG = "<|python_tag|>"
_LIST = "[TOOL_CALLS]"
_ARGUMENTS, _CALL_ID = "[ARGS]", "[CALL_ID]"
_BLOCK = re.compile(r"<tool_call>\s*<function=([^>\s]+)>(.*?)(?:</function>\s*</tool_call>|\Z)", re.DOTALL)
_PARAMETER, _PARAMETER_ENDS = "<parameter=", "</parameter>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a model wrote."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    """At most one more than `MOST_CALLS`: that there are too many is said where they are counted."""
    broken: tuple[str, ...] = ()
    """What stands where a call should and is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """One notation."""

    name: str
    read: Callable[[str, Sequence[Tool]], Written]
    """What a reply says and calls, of an episode with these tools. Where it has none of the notation's marks,
    it is all content."""


def _hermes(text: str, tools: Sequence[Tool]) -> Written:
    """Hermes 2, Qwen 2.5 and 3: our own."""
    reply = read_calls(text)
    return Written(content=reply.content, calls=reply.calls, broken=reply.problems)


def _tagged(text: str, tools: Sequence[Tool]) -> Written:
    """Qwen3-Coder: `<function=name>`, `<parameter=name>`, values bare, of the types of the schema."""
    calls: list[ToolCall] = []
    broken: list[str] = []
    for found in islice(_BLOCK.finditer(text), MOST_CALLS + 1):
        types = _types_of(found[1], tools)
        given = {name: _typed(value, types.get(name)) for name, value in _parameters(found[2])}
        call = call_of({"name": found[1], "arguments": given}, number=len(calls))
        if call is None:
            broken.append(found[0].removeprefix(OPENS))
        else:
            calls.append(call)
    content, *rest = _BLOCK.sub("", text).split(OPENS)
    broken = [part.partition(CLOSES)[0] for part in [*broken, *rest[:MOST_CALLS]]]
    return Written(content=content.strip(), calls=tuple(calls), broken=tuple(broken))


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    """Names and values. A value ends with the first end after it."""
    at = 0
    while (start := text.find(_PARAMETER, at)) >= 0:
        opened = text.find(">", start)
        closed = text.find(_PARAMETER_ENDS, opened)
        if opened < 0 or closed < 0:
            return
        value = text[opened + 1 : closed].removeprefix("\n").removesuffix("\n")
        yield text[start + len(_PARAMETER) : opened].strip(), value
        at = closed + len(_PARAMETER_ENDS)


def _json_alone(text: str, tools: Sequence[Tool]) -> Written:
    """Llama 3: the whole reply is an object with `name` and `parameters`; several are parted by `;`."""
    body = text.strip()
    is_marked = body.startswith(_PYTHON_TAG)
    body = body.removeprefix(_PYTHON_TAG)
    calls: list[ToolCall] = []
    at = 0
    while at < len(body) and len(calls) <= MOST_CALLS:
        try:
            value, at = json_value(body, at)
        except ValueError:
            break
        call = call_of(_with_arguments(value), number=len(calls))
        if call is None:
            break
        calls.append(call)
        at = len(body) - len(body[at:].lstrip("; \n"))
    if not calls or (at < len(body) and len(calls) <= MOST_CALLS):
        return Written(content="" if is_marked else text, broken=(body,) if is_marked else ())
    return Written(content="", calls=tuple(calls))


def _after_mark(text: str, tools: Sequence[Tool]) -> Written:
    """Mistral: after `[TOOL_CALLS]` a list, or `name[ARGS]{...}` with a mark each (version 11 on)."""
    content, found, rest = text.partition(_LIST)
    if not found:
        return Written(content=text)
    values: list[Any] = []
    for part in rest.split(_LIST)[: MOST_CALLS + 1]:
        try:
            values += _marked_values(part)
        except ValueError:
            return Written(content=content.strip(), broken=(part,))
    calls: list[ToolCall] = []
    broken: list[str] = []
    for value in values[: MOST_CALLS + 1]:
        call = call_of(value, number=len(calls))
        if call is None:
            broken.append(json.dumps(value))
        else:
            calls.append(call)
    return Written(content=content.strip(), calls=tuple(calls), broken=tuple(broken))


def _marked_values(part: str) -> list[Any]:
    name, found, arguments = part.partition(_ARGUMENTS)
    if found:
        name, _, call_id = name.partition(_CALL_ID)
        return [{"name": name.strip(), "arguments": json_value(arguments)[0], "id": call_id.strip()}]
    value = json_value(part)[0]
    return value if isinstance(value, list) else [value]


def _with_arguments(value: Any) -> Any:
    """`parameters` under the name that the others use."""
    if isinstance(value, Mapping) and "arguments" not in value and "parameters" in value:
        return {**value, "arguments": value["parameters"]}
    return value


def _types_of(name: str, tools: Sequence[Tool]) -> Mapping[str, Any]:
    """The type of each argument of a function, as its schema has it."""
    for tool in tools:
        function = tool["function"]
        if function["name"] == name:
            properties = function.get("parameters", {}).get("properties", {})
            return {key: schema.get("type") for key, schema in properties.items() if isinstance(schema, dict)}
    return {}


def _typed(text: str, kind: Any) -> Any:
    """A value that was written without quotes."""
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


HERMES = ToolFormat(name="hermes", read=_hermes)
FORMATS = (
    HERMES,
    ToolFormat(name="tagged", read=_tagged),
    ToolFormat(name="mistral", read=_after_mark),
    ToolFormat(name="llama", read=_json_alone),
)
