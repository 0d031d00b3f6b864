"""The tools of `/v1/responses`: functions, alone or in namespaces, those called with text, and a server's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trieline.actors.gateway.apis.fields import say_once
from trieline.actors.gateway.apis.functions import all_different, function_tool
from trieline.actors.gateway.apis.json_body import Name, Table, expected, wrong
from trieline.common.message import Tool, ToolCall

CUSTOM = "custom"
INPUT = "input"
"""The one argument of a tool that is called with text."""
_SPACE = "namespace:"
_TEXT_ALONE = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}


class ResponseTool(msgspec.Struct):
    """One, as it is sent."""

    type: str
    name: Name | None = None
    description: str | None = None
    parameters: Table | None = None
    tools: "list[ResponseTool] | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolbox:
    """Those that the agent runs itself."""

    tools: tuple[Tool, ...]
    forms: dict[str, str]
    """As `Asked.tool_forms`."""

    def name_here(self, name: str, namespace: str | None) -> str:
        """The name of the tool that the API calls so."""
        form = f"{_SPACE}{namespace}:{name}"
        return next((here for here, its in self.forms.items() if namespace and its == form), name)


def toolbox_of(sent: Sequence[ResponseTool]) -> Toolbox:
    """Of all that is sent. What the API's own server would run is left out: agents send it unasked."""
    tools: list[Tool] = []
    forms: dict[str, str] = {}
    taken = {tool.name for tool in sent if tool.type in ("function", CUSTOM)}
    for i, tool in enumerate(sent):
        at = f"tools[{i}]"
        if tool.type == "namespace":
            for inner in _inside(tool, at):
                name = inner.name if inner.name not in taken else f"{tool.name}.{inner.name}"
                taken.add(name)
                tools.append(function_tool(str(name), inner.description, inner.parameters, at))
                forms[str(name)] = f"{_SPACE}{tool.name}:{inner.name}"
        elif tool.type not in ("function", CUSTOM):
            say_once("responses", tool.type, "is a tool that no agent runs itself: it is left out")
        elif tool.name is None:
            raise wrong(at=f"{at}.name", why="expected a name, got none")
        elif tool.type == CUSTOM:
            tools.append(function_tool(tool.name, tool.description, _TEXT_ALONE, at))
            forms[tool.name] = CUSTOM
        else:
            tools.append(function_tool(tool.name, tool.description, tool.parameters, f"{at}.parameters"))
    return Toolbox(tools=all_different(tools), forms=forms)


def _inside(space: ResponseTool, at: str) -> list[ResponseTool]:
    inside = space.tools or []
    for tool in inside:
        if space.name is None or tool.type != "function" or tool.name is None:
            raise expected(tool.type, "functions with names in a namespace with a name", at=f"{at}.tools")
    return inside


def written_call(call: ToolCall, forms: dict[str, str], arguments: str) -> dict[str, Any]:
    """The fields of a call that say what is called with what. `arguments`: as JSON text."""
    form = forms.get(call.name, "")
    if form == CUSTOM:
        text = call.arguments.get(INPUT)
        return {
            "type": "custom_tool_call",
            "name": call.name,
            "input": text if isinstance(text, str) else arguments,
        }
    fields = {"type": "function_call", "name": call.name, "arguments": arguments}
    if form.startswith(_SPACE):
        space, _, name = form.removeprefix(_SPACE).partition(":")
        fields |= {"namespace": space, "name": name}
    return fields
