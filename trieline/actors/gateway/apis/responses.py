"""`/v1/responses`: how Codex and agents made with OpenAI's newer libraries ask."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from trieline.actors.gateway.apis import responses_request, sse
from trieline.actors.gateway.apis.json_body import json_text
from trieline.actors.gateway.apis.openai_errors import error_fields, refusal
from trieline.actors.gateway.apis.response_tools import written_call
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import RefusedError

Event = dict[str, Any]


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """What a body asks for. Raises `BadRequestError`, whatever the body is."""
    return responses_request.read(body, headers)


def body(replied: Replied, asked: Asked) -> dict[str, Any]:
    """The whole reply, for a request that is not streamed."""
    cut = replied.finish_reason == "length"
    return {
        **_head(replied.request_id, replied.created, replied.model, asked),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": _items(replied, asked),
        "usage": {
            "input_tokens": replied.prompt_tokens,
            "input_tokens_details": {"cached_tokens": replied.cached_tokens},
            "output_tokens": replied.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": replied.prompt_tokens + replied.completion_tokens,
        },
    }


def events(replied: Replied, asked: Asked) -> Iterator[bytes]:
    """The whole reply as server-sent events."""
    for number, step in enumerate(_steps(replied, asked)):
        yield sse.event({**step, "sequence_number": number}, name=step["type"])


def waiting() -> bytes:
    """What a stream may be sent at any time before that."""
    return sse.WAITING


def error(error: RefusedError, request_id: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of a refusal."""
    return refusal(error)


def error_event(error: RefusedError, request_id: str = "") -> bytes:
    """The same where the stream has begun."""
    fields = error_fields(error)
    failed = {
        **_head(request_id, int(time.time()), "", None),
        "status": "failed",
        "error": {"code": fields["code"] or "invalid_prompt", "message": fields["message"]},
    }
    name = "response.failed"
    return sse.event({"type": name, "sequence_number": 0, "response": failed}, name=name)


def _head(request_id: str, created: int, model: str, asked: Asked | None) -> dict[str, Any]:
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created,
        "model": model,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": asked.parallel_calls if asked else True,
        "temperature": asked.temperature if asked else None,
        "top_p": asked.top_p if asked else None,
        "max_output_tokens": asked.max_tokens if asked else None,
        "tool_choice": "auto",
        "tools": [],
        "store": False,
        "usage": None,
    }


def _items(replied: Replied, asked: Asked) -> list[dict[str, Any]]:
    """What was thought, said and called."""
    said, items = replied.message, []
    status = "incomplete" if replied.finish_reason == "length" else "completed"
    if said.reasoning:
        summary = [{"type": "summary_text", "text": said.reasoning}]
        items.append({"type": "reasoning", "id": f"rs_{replied.request_id}", "summary": summary})
    if said.content or not said.tool_calls:
        items.append(
            {
                "type": "message",
                "id": f"msg_{replied.request_id}",
                "role": "assistant",
                "status": status,
                "content": [_part(said.content)],
            }
        )
    for number, call in enumerate(said.tool_calls):
        written = written_call(call, asked.tool_forms, json_text(call.arguments))
        sort = "fc" if written["type"] == "function_call" else "ctc"
        ids = {"id": f"{sort}_{replied.request_id}_{number}", "call_id": call.id, "status": status}
        items.append({**written, **ids})
    return items


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _steps(replied: Replied, asked: Asked) -> Iterator[Event]:
    head = _head(replied.request_id, replied.created, replied.model, asked)
    yield {"type": "response.created", "response": head}
    for index, item in enumerate(_items(replied, asked)):
        empty = {**item, "status": "in_progress"} if "status" in item else dict(item)
        empty |= {name: type(item[name])() for name in _FILLED if name in item}
        yield {"type": "response.output_item.added", "output_index": index, "item": empty}
        for step in _filling(item):
            yield {**step, "item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    whole = body(replied, asked)
    yield {"type": f"response.{whole['status']}", "response": whole}


_FILLED = ("content", "summary", "arguments", "input")
"""The fields of an item that are empty when it is announced."""


def _filling(item: dict[str, Any]) -> Iterator[Event]:
    """The events between the first and the last of an item."""
    if item["type"] == "message":
        part, at = item["content"][0], {"content_index": 0}
        yield {"type": "response.content_part.added", **at, "part": _part("")}
        if part["text"]:
            yield {
                "type": "response.output_text.delta",
                **at,
                "delta": part["text"],
                "logprobs": [],
            }
        yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **at, "part": part}
    elif item["type"] == "reasoning":
        part, at, stem = item["summary"][0], {"summary_index": 0}, "response.reasoning_summary_"
        yield {"type": f"{stem}part.added", **at, "part": {"type": "summary_text", "text": ""}}
        yield {"type": f"{stem}text.delta", **at, "delta": part["text"]}
        yield {"type": f"{stem}text.done", **at, "text": part["text"]}
        yield {"type": f"{stem}part.done", **at, "part": part}
    elif item["type"] == "function_call":
        stem, text = "response.function_call_arguments.", item["arguments"]
        yield {"type": f"{stem}delta", "delta": text}
        yield {"type": f"{stem}done", "name": item["name"], "arguments": text}
    else:
        stem, text = "response.custom_tool_call_input.", item["input"]
        yield {"type": f"{stem}delta", "delta": text}
        yield {"type": f"{stem}done", "input": text}
