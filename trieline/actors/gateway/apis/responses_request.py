"""The body of `/v1/responses`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from trieline.actors.gateway.apis.fields import Refused, say_unknown
from trieline.actors.gateway.apis.functions import choice_among, with_names
from trieline.actors.gateway.apis.json_body import Name, Table, expected, record_of, within_bounds, wrong
from trieline.actors.gateway.apis.response_items import Item, messages_of_items
from trieline.actors.gateway.apis.response_tools import ResponseTool, Toolbox, toolbox_of
from trieline.actors.gateway.apis.sampling import ModelName, Sampling, sampling_of
from trieline.actors.gateway.asked import Asked
from trieline.actors.gateway.harness_marks import declared
from trieline.common.message import Message, user_message

WITHOUT_EFFECT: dict[str, str] = {
    "metadata": "for the list of stored replies, which is not kept",
    "client_metadata": "what is known of it stands in headers too",
    "store": "every reply is recorded, and none is handed out again",
    "user": "who asks is told by the key",
    "safety_identifier": "who asks is told by the key",
    "service_tier": "there is one",
    "prompt_cache_key": "the cache is kept by tokens",
    "prompt_cache_options": "the cache is kept by tokens",
    "prompt_cache_retention": "the cache is kept by tokens",
    "reasoning": "a policy has learnt how long to think, and what it thought is told in whole",
    "stream_options": "there is nothing to hide in a stream",
}
"""Fields that may be sent, with the reason why nothing comes of them."""

REFUSED = Refused(
    previous_response_id=(),
    conversation=(),
    prompt=(),
    background=(),
    truncation=("disabled",),
    context_management=(),
    max_tool_calls=(),
    top_logprobs=(0,),
    modalities=(["text"],),
    moderation=(),
)
"""Fields that would change the reply, with the values that ask for nothing. Nothing is stored that a later
request could build on: it has to hold the whole conversation."""
_LOGPROBS = "message.output_text.logprobs"


class _Format(msgspec.Struct):
    type: str
    schema: Table | None = None


class _TextForm(msgspec.Struct):
    format: _Format | None = None


class _Choice(msgspec.Struct):
    type: str
    name: Name | None = None
    mode: str | None = None
    tools: list[Table] | None = None


class _Body(Sampling):
    model: ModelName
    input: str | list[Item]
    instructions: str | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    text: _TextForm | None = None
    max_output_tokens: int | None = None
    include: list[str] | None = None


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What it asks for. Raises `BadRequestError`, whatever it is."""
    asked = record_of(body, _Body)
    REFUSED.check(body)
    say_unknown("responses", body, (*_Body.__struct_fields__, *WITHOUT_EFFECT, *REFUSED.neutral))
    if _LOGPROBS in (asked.include or ()):
        raise wrong(at="include", why=f"{_LOGPROBS} is not supported")
    box = toolbox_of(asked.tools or ())
    messages = _messages(asked, box)
    return Asked(
        model=asked.model,
        messages=messages,
        tools=box.tools,
        tool_choice=_choice(asked.tool_choice, box),
        parallel_calls=asked.parallel_tool_calls is not False,
        response_schema=_schema(asked.text),
        declared=declared(headers, messages),
        tool_forms=box.forms,
        **sampling_of(asked, asked.max_output_tokens, None),
    )


def _messages(asked: _Body, box: Toolbox) -> tuple[Message, ...]:
    said = [Message(role="system", content=asked.instructions)] if asked.instructions else []
    if isinstance(asked.input, str):
        return (*said, user_message(asked.input))
    said += messages_of_items(asked.input, box)
    if not said:
        raise wrong(at="input", why="expected at least one item, got none")
    return with_names(said)


def _choice(choice: str | _Choice | None, box: Toolbox) -> str:
    if choice is None or isinstance(choice, str):
        if choice not in (None, "auto", "none", "required"):
            raise expected(choice, "auto, none, required or a function", at="tool_choice")
        return choice_among(box.tools, choice or "auto")
    if choice.type in ("function", "custom") and choice.name is not None:
        return choice_among(box.tools, f"function:{choice.name}")
    if choice.type == "allowed_tools" and choice.mode in ("auto", "required"):
        names = [str(tool.get("name")) for tool in choice.tools or () if tool.get("type") == "function"]
        return choice_among(box.tools, choice.mode, names)
    raise expected(choice.type, "a function or allowed_tools, with what goes with it", at="tool_choice.type")


def _schema(text: _TextForm | None) -> Table | None:
    form = text.format if text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {}
    if form.type != "json_schema" or form.schema is None:
        raise expected(form.type, "text, json_object, or json_schema with a schema", at="text.format.type")
    return dict(within_bounds(form.schema, "text.format.schema"))
