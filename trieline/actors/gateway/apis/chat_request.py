"""The body of `/v1/chat/completions`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from trieline.actors.gateway.apis.fields import Refused, say_unknown
from trieline.actors.gateway.apis.functions import all_different, choice_among, function_tool, with_names
from trieline.actors.gateway.apis.json_body import (
    MOST_CALLS,
    MOST_MESSAGES,
    MOST_PARTS,
    Id,
    Name,
    Stop,
    Table,
    arguments_of,
    at_most,
    expected,
    record_of,
    within_bounds,
    wrong,
)
from trieline.actors.gateway.apis.sampling import ModelName, Sampling, sampling_of
from trieline.actors.gateway.asked import Asked
from trieline.actors.gateway.harness_marks import declared
from trieline.common.message import Message, Role, Tool, ToolCall

WITHOUT_EFFECT: dict[str, str] = {
    "metadata": "for the list of stored replies, which is not kept",
    "store": "every reply is recorded, and none is handed out again",
    "user": "who asks is told by the key",
    "safety_identifier": "who asks is told by the key",
    "service_tier": "there is one",
    "prompt_cache_key": "the cache is kept by tokens",
    "prompt_cache_options": "the cache is kept by tokens",
    "prompt_cache_retention": "the cache is kept by tokens",
    "reasoning_effort": "a policy has learnt how long to think",
    "verbosity": "a policy has learnt how much to say",
}
"""Fields that may be sent, with the reason why nothing comes of them."""

REFUSED = Refused(
    n=(1,),
    logit_bias=(),
    frequency_penalty=(0,),
    presence_penalty=(0,),
    repetition_penalty=(1,),
    min_p=(0,),
    logprobs=(),
    top_logprobs=(0,),
    audio=(),
    modalities=(["text"],),
    prediction=(),
    functions=(),
    function_call=("none",),
    web_search_options=(),
    moderation=(),
)
"""Fields that would change the reply, with the values that ask for nothing."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Function(msgspec.Struct):
    name: Name
    arguments: str | Table | None = None


class _Call(msgspec.Struct):
    type: str | None = None
    id: Id | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: Id | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    """A server's own; text where it is what `reasoning_content` is elsewhere."""
    audio: Any = None
    function_call: Any = None


class _Named(msgspec.Struct):
    name: Name
    description: str | None = None
    parameters: Table | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Named | None = None


class _Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_Tool]


class _Choice(msgspec.Struct):
    type: str
    function: _Named | None = None
    allowed_tools: _Allowed | None = None


class _Schema(msgspec.Struct):
    schema: Table | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(Sampling):
    model: ModelName
    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: Stop | list[Stop] | None = None
    stream_options: _StreamOptions | None = None


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What it asks for. Raises `BadRequestError`, whatever it is."""
    asked = record_of(body, _Body)
    REFUSED.check(body)
    say_unknown("chat completions", body, (*_Body.__struct_fields__, *WITHOUT_EFFECT, *REFUSED.neutral))
    if not asked.messages:
        raise wrong(at="messages", why="expected at least one, got none")
    at_most(MOST_MESSAGES, len(asked.messages), "messages", "messages")
    tools = all_different([_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools or ())])
    messages = with_names([_message(message, f"messages[{i}]") for i, message in enumerate(asked.messages)])
    most = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
    return Asked(
        model=asked.model,
        messages=messages,
        tools=tools,
        tool_choice=_choice(asked.tool_choice, tools),
        parallel_calls=asked.parallel_tool_calls is not False,
        response_schema=_schema(asked.response_format),
        stream_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        declared=declared(headers, messages),
        **sampling_of(asked, most, asked.stop),
    )


def _message(said: _Message, at: str) -> Message:
    role = _ROLES.get(said.role)
    if role is None:
        raise expected(said.role, f"one of {', '.join(_ROLES)}", at=f"{at}.role")
    if said.audio is not None or said.function_call is not None:
        name = "audio" if said.audio is not None else "function_call"
        raise wrong(at=f"{at}.{name}", why="is not supported")
    content = _text(said.content, f"{at}.content")
    if role != "assistant":
        if said.tool_calls:
            raise wrong(
                at=f"{at}.tool_calls",
                why=f"expected calls in messages of the role assistant, got {said.role}",
            )
        call_id = said.tool_call_id or "" if role == "tool" else ""
        return Message(role=role, content=content, tool_call_id=call_id, name=said.name or "")
    calls = said.tool_calls or []
    at_most(MOST_CALLS, len(calls), f"{at}.tool_calls", "calls")
    reasoning = said.reasoning_content or (said.reasoning if isinstance(said.reasoning, str) else "")
    return Message(
        role=role,
        content=content or said.refusal or "",
        reasoning=reasoning,
        tool_calls=tuple(_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(calls)),
        name=said.name or "",
    )


def _text(content: str | Sequence[_Part] | None, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    at_most(MOST_PARTS, len(content), at, "parts")
    found = []
    for i, part in enumerate(content):
        if part.type not in ("text", "refusal"):
            raise expected(part.type, "text", at=f"{at}[{i}].type")
        found.append(part.text if part.text is not None else part.refusal or "")
    return "\n".join(filter(None, found))


def _call(call: _Call, at: str) -> ToolCall:
    if call.function is None:
        raise expected(call.type, "a call of a function", at=f"{at}.type")
    arguments = arguments_of(call.function.arguments, f"{at}.function.arguments")
    return ToolCall(name=call.function.name, arguments=arguments, id=call.id or "")


def _tool(tool: _Tool, at: str) -> Tool:
    if tool.type != "function" or tool.function is None:
        raise expected(tool.type, "a function with a name", at=f"{at}.type")
    function = tool.function
    return function_tool(
        function.name, function.description, function.parameters, f"{at}.function.parameters"
    )


def _choice(choice: str | _Choice | None, tools: Sequence[Tool]) -> str:
    if choice is None or isinstance(choice, str):
        if choice not in (None, "auto", "none", "required"):
            raise expected(choice, "auto, none, required or a function", at="tool_choice")
        return choice_among(tools, choice or "auto")
    if choice.type == "function" and choice.function is not None:
        return choice_among(tools, f"function:{choice.function.name}")
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        named = [tool.function.name for tool in choice.allowed_tools.tools if tool.function is not None]
        return choice_among(tools, choice.allowed_tools.mode, named)
    raise expected(choice.type, "function or allowed_tools, with what goes with it", at="tool_choice.type")


def _schema(form: _Format | None) -> Table | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {}
    if form.type != "json_schema" or form.json_schema is None:
        raise expected(
            form.type, "text, json_object, or json_schema with a schema", at="response_format.type"
        )
    return dict(within_bounds(form.json_schema.schema or {}, "response_format.json_schema.schema"))
