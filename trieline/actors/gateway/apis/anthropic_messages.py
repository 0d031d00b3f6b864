"""`/v1/messages`: how Claude Code and agents made with Anthropic's libraries ask."""

from collections.abc import Iterator, Mapping
from typing import Any

from trieline.actors.gateway.apis import anthropic_request, sse
from trieline.actors.gateway.apis.json_body import json_text
from trieline.actors.gateway.apis.retry import headers_of
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import ContextLengthError, Kind, RefusedError

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_SIGNATURE = "trieline"
"""Clients send a thought back only if it has one."""
_TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "context_length": "invalid_request_error",
    "unknown_key": "authentication_error",
    "not_found": "not_found_error",
    "conflict": "invalid_request_error",
    "too_large": "request_too_large",
    "overloaded": "rate_limit_error",
    "upstream": "api_error",
    "deadline": "timeout_error",
}


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What a body asks for. Raises `BadRequestError`, whatever the body is."""
    return anthropic_request.read(body, headers)


def body(replied: Replied, asked: Asked) -> dict[str, Any]:
    """The whole reply, for a request that is not streamed."""
    return {
        **_head(replied),
        "content": _blocks(replied),
        "stop_reason": _stop_reason(replied),
        "stop_sequence": replied.stop or None,
        "usage": _usage(replied),
    }


def counted(tokens: int) -> dict[str, Any]:
    """The reply of `/v1/messages/count_tokens`."""
    return {"input_tokens": tokens}


def events(replied: Replied, asked: Asked) -> Iterator[bytes]:
    """The whole reply as server-sent events."""
    begun = {**_head(replied), "content": [], "stop_reason": None, "stop_sequence": None}
    begun["usage"] = _usage(replied) | {"output_tokens": 0}
    yield _event("message_start", message=begun)
    for index, block in enumerate(_blocks(replied)):
        empty, deltas = _pieces(block)
        yield _event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    delta = {"stop_reason": _stop_reason(replied), "stop_sequence": replied.stop or None}
    yield _event("message_delta", delta=delta, usage=_usage(replied))
    yield _event("message_stop")


def waiting() -> bytes:
    """What a stream may be sent at any time before that."""
    return _event("ping")


def error(error: RefusedError, request_id: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of a refusal."""
    return error.status, headers_of(error), _error(error, request_id)


def error_event(error: RefusedError, request_id: str = "") -> bytes:
    """The same where the stream has begun."""
    return sse.event(_error(error, request_id), name="error")


def _error(error: RefusedError, request_id: str) -> dict[str, Any]:
    said = error.message
    if isinstance(error, ContextLengthError):  # the words by which clients know it
        said = f"prompt is too long: {error.found} tokens > {error.most} maximum"
    fields = {"type": _TYPES[error.kind], "message": said}
    return {"type": "error", "error": fields, "request_id": f"req_{request_id}" if request_id else None}


def _event(name: str, **fields: Any) -> bytes:
    return sse.event({"type": name, **fields}, name=name)


def _head(replied: Replied) -> dict[str, Any]:
    return {
        "id": f"msg_{replied.request_id}",
        "type": "message",
        "role": "assistant",
        "model": replied.model,
    }


def _stop_reason(replied: Replied) -> str:
    return "stop_sequence" if replied.stop else _STOP_REASONS[replied.finish_reason]


def _usage(replied: Replied) -> dict[str, Any]:
    return {
        "input_tokens": replied.prompt_tokens - replied.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": replied.cached_tokens,
        "output_tokens": replied.completion_tokens,
    }


def _blocks(replied: Replied) -> list[dict[str, Any]]:
    """What was thought, said and called."""
    said = replied.message
    blocks: list[dict[str, Any]] = []
    if said.reasoning:
        blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": _SIGNATURE})
    if said.content:  # the API knows no empty text
        blocks.append({"type": "text", "text": said.content})
    for call in said.tool_calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return blocks


def _pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and what is added to it."""
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
        return {**block, "thinking": "", "signature": ""}, deltas
    if block["type"] == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
    partial = json_text(block["input"])
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": partial}]
