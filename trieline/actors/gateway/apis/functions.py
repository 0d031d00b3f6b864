"""Tools, the choice among them, and calls: the same in all APIs once they are read."""

from collections.abc import Sequence
from typing import Any

import msgspec

from trieline.actors.gateway.apis.json_body import MOST_TOOLS, Table, at_most, expected, within_bounds, wrong
from trieline.common.message import Message, Tool


def function_tool(name: str, description: str | None, parameters: Table | None, param: str) -> Tool:
    """One in the form of `Asked.tools`. Whether a client calls its schema strict changes nothing."""
    shown: dict[str, Any] = {"name": name}
    if description:
        shown["description"] = description
    shown["parameters"] = _object_schema(parameters or {"type": "object", "properties": {}}, param)
    return {"type": "function", "function": shown}


def _object_schema(schema: Table, param: str) -> Table:
    """What templates take for granted of it."""
    kept = {name: value for name, value in schema.items() if value is not None}
    if not isinstance(properties := kept.get("properties", {}), dict):
        raise expected(properties, "an object", at=f"{param}.properties")
    if not isinstance(required := kept.get("required", []), list):
        raise expected(required, "a list of names", at=f"{param}.required")
    return dict(within_bounds(kept, param))


def name_of(tool: Tool) -> str:
    """Of a tool in that form."""
    return str(tool["function"]["name"])


def all_different(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """They, if no two have one name and they are not too many."""
    at_most(MOST_TOOLS, len(tools), "tools", "tools")
    names: set[str] = set()
    for name in map(name_of, tools):
        if name in names:
            raise wrong(
                at="tools", why=f"expected tools of different names, got two that are called {name!r}"
            )
        names.add(name)
    return tuple(tools)


def choice_among(tools: Sequence[Tool], choice: str, allowed: Sequence[str] | None = None) -> str:
    """`choice` (as `Asked.tool_choice`), if it can be met. `allowed`: the tools that it is limited to."""
    names = {name_of(tool) for tool in tools}
    wanted = {choice.removeprefix("function:")} if choice.startswith("function:") else set(allowed or ())
    if missing := sorted(wanted - names):
        raise wrong(at="tool_choice", why=f"expected one of the tools of the request, got {missing[0]!r}")
    if choice == "required" and not names:
        raise wrong(
            at="tool_choice", why="expected tools in the request, since one has to be called, got none"
        )
    if allowed is None or wanted == names or choice == "none":
        return choice
    if choice == "required" and len(wanted) == 1:
        return f"function:{wanted.pop()}"
    raise wrong(
        at="tool_choice", why="expected all tools to be allowed, or a single one that is required, got a part"
    )


def with_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same with the tool's name in each answer, which some templates write and no API repeats."""
    called = {call.id: call.name for message in messages for call in message.tool_calls if call.id}
    return tuple(
        msgspec.structs.replace(message, name=called.get(message.tool_call_id, ""))
        if message.role == "tool" and not message.name
        else message
        for message in messages
    )
