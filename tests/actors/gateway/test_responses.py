"""`/v1/responses`: what bodies ask for, what is refused, and what OpenAI's own client reads."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.actors.gateway.api_server import ApiServer, running_server
from tests.actors.gateway.mutated import mutated, readings
from tests.actors.gateway.replies import ALL, CALLS, CUT, TEXT
from trieline.actors.gateway.apis import responses
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import (
    BadRequestError,
    ContextLengthError,
    DeadlineError,
    NotFoundError,
    OverloadedError,
    UpstreamError,
)
from trieline.common.message import Message, ToolCall

openai = pytest.importorskip("openai")

SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command.",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    "strict": True,
}
PATCH = {"type": "custom", "name": "patch", "format": {"type": "text"}}
SPACE = {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "shell"}]}
FULL: dict[str, Any] = {
    "model": "policy",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "In German."}]},
        {"role": "user", "content": "list"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "ls"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
        {"type": "function_call", "name": "shell", "arguments": '{"command": "ls"}', "call_id": "c1"},
        {"type": "custom_tool_call", "name": "patch", "input": "+a", "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "ok"}],
        },
    ],
    "tools": [SHELL, PATCH, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "shell"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "max_output_tokens": 100,
    "temperature": 0,
    "top_p": 1,
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "high"},
    "truncation": "disabled",
    "previous_response_id": None,
}
HELLO: dict[str, Any] = {"model": "policy", "input": "hello"}


def read(body: dict[str, Any]) -> Asked:
    return responses.read(body, {})


def test_everything_that_a_body_can_ask_for_is_read() -> None:
    asked = read(FULL)
    assert asked.messages == (
        Message(role="system", content="Be brief."),
        Message(role="system", content="In German."),
        Message(role="user", content="list"),
        Message(
            role="assistant",
            content="Yes.",
            reasoning="ls",
            tool_calls=(
                ToolCall(name="shell", arguments={"command": "ls"}, id="c1"),
                ToolCall(name="patch", arguments={"input": "+a"}, id="c2"),
            ),
        ),
        Message(role="tool", content="a.txt", tool_call_id="c1", name="shell"),
        Message(role="tool", content="ok", tool_call_id="c2", name="patch"),
    )
    assert [tool["function"]["name"] for tool in asked.tools] == ["shell", "patch"]
    assert (asked.tool_choice, asked.parallel_calls) == ("function:shell", False)
    assert asked.response_schema == {"type": "object"}
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.stream) == (100, 0.0, 1.0, True)


def test_what_is_left_out_or_null_is_left_to_the_server() -> None:
    nulls = dict.fromkeys(FULL.keys() - HELLO.keys())
    assert read(HELLO | nulls) == read(HELLO)
    assert read(HELLO) == Asked(model="policy", messages=(Message(role="user", content="hello"),))


def test_replies_that_follow_one_another_stay_apart() -> None:
    call = {"type": "function_call", "name": "f", "call_id": "c"}
    said = {"role": "assistant", "content": "a"}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}
    items = [said, said, call, call, said, thought, call]
    found = [(m.content, m.reasoning, len(m.tool_calls)) for m in read(HELLO | {"input": items}).messages]
    assert found == [("a", "", 0), ("a", "", 2), ("a", "", 0), ("", "t", 1)]


def test_a_tool_in_a_namespace_that_has_anothers_name_gets_a_longer_one() -> None:
    call = {"type": "function_call", "name": "shell", "namespace": "files", "call_id": "c"}
    asked = read(HELLO | {"tools": [SPACE, SHELL], "input": [call]})
    assert [tool["function"]["name"] for tool in asked.tools] == ["files.shell", "shell"]
    assert asked.messages[0].tool_calls[0].name == "files.shell"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: is not supported here, got 'resp_1'"),
        ({"conversation": "c"}, "conversation: is not supported here"),
        ({"background": True}, "background: is not supported here"),
        ({"truncation": "auto"}, "truncation: can only be 'disabled' here"),
        ({"top_logprobs": 3}, "top_logprobs: can only be 0 here"),
        ({"include": ["message.output_text.logprobs"]}, "include: message.output_text.logprobs is not"),
        ({"input": []}, "input: expected at least one item, got none"),
        ({"input": 3}, "input: expected `str | array`, got `int`"),
        ({"input": [{"role": "king"}]}, "input[0].role: expected one of system"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type: expected one of message,"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type: expected text, got 'input_image'",
        ),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]},
            "input[0].output[0].type: expected text",
        ),
        ({"input": [{"type": "function_call", "arguments": "{}"}]}, "input[0].name: expected the name"),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": "["}]},
            "input[0].arguments: expected a JSON object as text",
        ),
        (
            {"input": [{"type": "function_call", "name": "f"}] * 129},
            "input[128]: expected at most 128 calls in a reply, got 129",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].name: expected a name, got none"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [1]}]},
            "tools[0].tools[0]: expected `object`",
        ),
        (
            {"tools": [{"type": "namespace", "tools": [SHELL]}]},
            "tools[0].tools: expected functions with names",
        ),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type: expected a function or"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type: expected text, json_object, or"),
        ({"max_output_tokens": -1}, "max_tokens: expected at least 1"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(HELLO | fields)
    assert caught.value.message.startswith(complaint)


def test_any_json_is_read_or_refused() -> None:
    readable, refusals = readings(responses, mutated(FULL | {"tools": [SHELL, PATCH, SPACE]}))
    assert min(readable, refusals) > 200


@pytest.mark.parametrize("replied", ALL)
def test_a_reply_reads_back_as_what_was_said(replied: Replied) -> None:
    items = responses.body(replied, read(HELLO))["output"]
    assert read({"model": "policy", "input": items}).messages == (replied.message,)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def test_openais_client_reads_text_and_usage(server: ApiServer, client: Any) -> None:
    server.answer = TEXT
    response = client.responses.create(**HELLO)
    assert response.output_text == TEXT.message.content
    assert (response.id, response.status, response.model) == ("resp_r1", "completed", "policy")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (30, 5, 35)
    assert usage.input_tokens_details.cached_tokens == 12


def test_openais_client_sees_where_a_reply_was_cut(server: ApiServer, client: Any) -> None:
    server.answer = CUT
    response = client.responses.create(**HELLO)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("replied", ALL)
def test_openais_client_puts_a_stream_together(server: ApiServer, client: Any, replied: Replied) -> None:
    server.answer = replied
    with client.responses.stream(**HELLO) as stream:
        kinds = [event.type for event in stream]
        if replied is CUT:  # the client has no word for it
            assert kinds[-1] == "response.incomplete"
            return
        whole = stream.get_final_response()
    items = [item.to_dict() for item in whole.output]
    client.responses.create(model="policy", input=items)
    assert server.asked[-1].messages == (replied.message,)
    assert whole.usage.output_tokens == replied.completion_tokens


def test_calls_are_written_as_their_tools_are_called(server: ApiServer, client: Any) -> None:
    calls = (
        ToolCall(name="files.shell", arguments={"a": 1}, id="c1"),
        ToolCall(name="patch", arguments={"input": "+ä"}, id="c2"),
        ToolCall(name="shell", arguments={"command": "ls"}, id="c3"),
    )
    server.answer = Replied(
        request_id="r9",
        created=1,
        model="policy",
        message=Message(role="assistant", tool_calls=calls),
        finish_reason="tool_calls",
        prompt_tokens=1,
        completion_tokens=1,
    )
    tools = [SHELL, PATCH, SPACE]
    with client.responses.stream(**HELLO, tools=tools) as stream:
        deltas = [event.delta for event in stream if event.type.endswith(".delta")]
        inside, custom, plain = stream.get_final_response().output
    assert (inside.type, inside.namespace, inside.name) == ("function_call", "files", "shell")
    assert (custom.type, custom.name, custom.input) == ("custom_tool_call", "patch", "+ä")
    assert (plain.namespace, json.loads(plain.arguments)) == (None, {"command": "ls"})
    assert deltas == [inside.arguments, custom.input, plain.arguments]
    items = [item.to_dict() for item in (inside, custom, plain)]
    client.responses.create(model="policy", input=items, tools=tools)
    assert server.asked[-1].messages[0].tool_calls == calls


async def from_async_client(url: str) -> list[str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:
        whole = await client.responses.create(**HELLO)
        stream = await client.responses.create(**HELLO, stream=True)
        numbers = [event.sequence_number async for event in stream]
        return [whole.output_text, str(numbers == list(range(len(numbers))))]


def test_openais_asynchronous_client(server: ApiServer) -> None:
    server.answer = TEXT
    assert asyncio.run(from_async_client(server.url)) == [TEXT.message.content, "True"]


@pytest.mark.parametrize(
    ("refused", "name", "code"),
    [
        (ContextLengthError(found=9000, most=8192), "BadRequestError", "context_length_exceeded"),
        (NotFoundError("expected one of policy, got gpt-9"), "NotFoundError", "not_found"),
        (OverloadedError("full", retry_after_s=0.1), "RateLimitError", "rate_limit_exceeded"),
        (DeadlineError("no reply in 60 s"), "InternalServerError", "timeout"),
    ],
)
def test_openais_client_knows_refusals(
    server: ApiServer, client: Any, refused: Any, name: str, code: str
) -> None:
    server.answer = refused
    with pytest.raises(getattr(openai, name)) as caught:
        client.responses.create(**HELLO)
    assert (caught.value.code, caught.value.status_code) == (code, refused.status)


def test_openais_client_sees_a_stream_break_off(server: ApiServer, client: Any) -> None:
    server.answer, server.dies_with = CALLS, UpstreamError("the policy died")
    try:
        (event,) = client.responses.create(**HELLO, stream=True)
    finally:
        server.dies_with = None
    assert (event.type, event.response.status) == ("response.failed", "failed")
    assert event.response.error.message == "the policy died"
