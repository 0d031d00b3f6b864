"""Grammars under which a reply is a tool call, in the notation of a model, or JSON that follows a schema.

For `Sampling.lark` and `Sampling.json_schema`; nothing here compiles them. JSON comes in one spelling, that
of chat templates (`json.dumps`): free to choose its spaces, a model may write them for ever. A schema with a
keyword that llguidance does not know is refused by the policy server, by the keyword's name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trieline.actors.errors import ToolGrammarError
from trieline.common.message import Tool
from trieline.envs.tool_calls import CLOSES, MOST_CALLS, NAME_LENGTH, OPENS

FORMATS = ("hermes", "llama", "mistral")
"""Those of `tool_formats` in which a call can be forced."""
MOST_CHARACTERS = 256 * 1024
"""As many as a policy server takes."""
_SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LIST, _ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
CALL_MARKS = (OPENS, CLOSES, _LIST, _ARGUMENTS)
"""What some tokenizers have a token of its own for."""
_NO_MARKS: Mapping[str, int] = {}


def forced_call(
    format_name: str,
    tools: Sequence[Tool],
    name: str | None = None,
    *,
    most: int = 1,
    marks: Mapping[str, int] = _NO_MARKS,
) -> str:
    """The Lark grammar of replies that do nothing but call: `tools[...]`, or the one of this `name`.

    `most`: calls that one reply may make. `marks`: those added tokens of the tokenizer, by their text, that
    stand for marks of the notation: with Mistral's `[ARGS]` among them, its newer notation is used.

    Raises:
        ToolGrammarError: no call can be forced in this notation, or none of these tools is one to call.
    """
    if not 1 <= most <= MOST_CALLS:
        msg = f"expected 1 to {MOST_CALLS} calls, got {most}"
        raise ToolGrammarError(msg)
    chosen = [_function(tool) for tool in tools]
    if name is not None:
        chosen = [function for function in chosen if function["name"] == name]
    if not chosen:
        what = "tools, got none" if name is None else f"a tool {name!r}, got none of that name"
        msg = f"expected {what}"
        raise ToolGrammarError(msg)
    if format_name == "hermes":
        line = _text("\n")
        start = _repeated(f"{_mark(OPENS, marks)} {line} call {line} {_mark(CLOSES, marks)}", "\n", most)
        calls = [_call(function, "arguments") for function in chosen]
    elif format_name == "llama":
        start = _repeated("call", "; ", most)
        calls = [_call(function, "parameters") for function in chosen]
    elif format_name == "mistral" and _ARGUMENTS in marks:
        start = _repeated(f"{_mark(_LIST, marks)} call", "", most)
        calls = [
            f"{_text(function['name'])} {_mark(_ARGUMENTS, marks)} {_json(function)}" for function in chosen
        ]
    elif format_name == "mistral":
        start = f"{_mark(_LIST, marks)} {_text('[')} {_repeated('call', ', ', most)} {_text(']')}"
        calls = [_call(function, "arguments") for function in chosen]
    else:
        msg = f"expected a notation in which calls can be forced ({', '.join(FORMATS)}), got {format_name!r}"
        raise ToolGrammarError(msg)
    alternatives = " | ".join(f"call_{i}" for i in range(len(calls)))
    rules = [
        f"start: {start}",
        f"call: {alternatives}",
        *(f"call_{i}: {call}" for i, call in enumerate(calls)),
    ]
    return _bounded("\n".join(rules) + "\n")


def json_reply(schema: Mapping[str, Any]) -> str:
    """The JSON schema of replies that follow `schema`; `{}`: any JSON object.

    Raises:
        ToolGrammarError: it can't be written as JSON, or is too long.
    """
    return _bounded(_spelled(schema or {"type": "object"}))


def _function(tool: Tool) -> dict[str, Any]:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH:
        msg = (
            f"expected tools whose functions have a name of 1 to {NAME_LENGTH} characters, got {tool!r:.100}"
        )
        raise ToolGrammarError(msg)
    return function


def _repeated(item: str, between: str, most: int) -> str:
    if most == 1:
        return item
    joined = f"{_text(between)} {item}" if between else item
    return f"{item} ({joined}){{0,{most - 1}}}"


def _call(function: dict[str, Any], key: str) -> str:
    """`{"name": ..., key: {...}}`."""
    head = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "{key}": '
    return f"{_text(head)} {_json(function)} {_text('}')}"


def _json(function: dict[str, Any]) -> str:
    schema = function.get("parameters") or {}
    if not isinstance(schema, dict):
        msg = f"expected the parameters of {function['name']!r} as a JSON schema, got {schema!r:.100}"
        raise ToolGrammarError(msg)
    # Arguments are an object, whatever the schema says.
    return f"%json {_spelled(schema | {'type': 'object'})}"


def _spelled(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps({"x-guidance": _SPELLING} | dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"expected a schema of JSON, got none: {error}"
        raise ToolGrammarError(msg) from error


def _mark(text: str, marks: Mapping[str, int]) -> str:
    return f"<[{marks[text]}]>" if text in marks else _text(text)


def _text(text: str) -> str:
    """A string of Lark."""
    return json.dumps(text, ensure_ascii=False)


def _bounded(grammar: str) -> str:
    if len(grammar) > MOST_CHARACTERS:
        msg = f"expected schemas of at most {MOST_CHARACTERS} characters together, got {len(grammar)}"
        raise ToolGrammarError(msg)
    return grammar
