"""`/v1/chat/completions`: how most agents ask, whatever library they are made with."""

from collections.abc import Iterator, Mapping
from typing import Any

from trieline.actors.gateway.apis import chat_request, sse
from trieline.actors.gateway.apis.json_body import json_text
from trieline.actors.gateway.apis.openai_errors import error_fields, refusal
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import RefusedError
from trieline.common.message import ToolCall


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What a body asks for. Raises `BadRequestError`, whatever the body is."""
    return chat_request.read(body, headers)


def body(replied: Replied, asked: Asked) -> dict[str, Any]:
    """The whole reply, for a request that is not streamed."""
    said = replied.message
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.content if said.content or not said.tool_calls else None,
        "refusal": None,
    }
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tool_calls:
        message["tool_calls"] = [_call(call) for call in said.tool_calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": replied.finish_reason}
    return {**_head(replied, "chat.completion"), "choices": [choice], "usage": _usage(replied)}


def events(replied: Replied, asked: Asked) -> Iterator[bytes]:
    """The whole reply as server-sent events."""
    said = replied.message
    yield _chunk(replied, asked, {"role": "assistant", "content": ""})
    if said.reasoning:
        yield _chunk(replied, asked, {"reasoning_content": said.reasoning})
    if said.content:
        yield _chunk(replied, asked, {"content": said.content})
    for index, call in enumerate(said.tool_calls):
        yield _chunk(replied, asked, {"tool_calls": [{"index": index, **_call(call)}]})
    yield _chunk(replied, asked, {}, finish_reason=replied.finish_reason)
    if asked.stream_usage:
        last = {**_head(replied, "chat.completion.chunk"), "choices": [], "usage": _usage(replied)}
        yield sse.event(last)
    yield sse.DONE


def waiting() -> bytes:
    """What a stream may be sent at any time before that."""
    return sse.WAITING


def error(error: RefusedError, request_id: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of a refusal."""
    return refusal(error)


def error_event(error: RefusedError, request_id: str = "") -> bytes:
    """The same where the stream has begun."""
    return sse.event({"error": error_fields(error)})


def _head(replied: Replied, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{replied.request_id}",
        "object": kind,
        "created": replied.created,
        "model": replied.model,
    }


def _chunk(
    replied: Replied, asked: Asked, delta: dict[str, Any], *, finish_reason: str | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {**_head(replied, "chat.completion.chunk"), "choices": [choice]}
    return sse.event({**chunk, "usage": None} if asked.stream_usage else chunk)


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json_text(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _usage(replied: Replied) -> dict[str, Any]:
    return {
        "prompt_tokens": replied.prompt_tokens,
        "completion_tokens": replied.completion_tokens,
        "total_tokens": replied.prompt_tokens + replied.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": replied.cached_tokens},
    }
