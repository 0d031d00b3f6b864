"""`/v1/chat/completions`: what bodies ask for, what is refused, and what OpenAI's own client reads."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.actors.gateway.api_server import ApiServer, running_server
from tests.actors.gateway.mutated import mutated, readings
from tests.actors.gateway.replies import ALL, CALLS, CUT, STOPPED, TEXT
from trieline.actors.gateway.apis import chat_completions
from trieline.actors.gateway.asked import Asked
from trieline.actors.gateway.errors import (
    BadRequestError,
    ConflictError,
    ContextLengthError,
    OverloadedError,
    UnknownKeyError,
    UpstreamError,
)
from trieline.common.message import Message, ToolCall

openai = pytest.importorskip("openai")

FUNCTION = {
    "name": "shell",
    "description": "Runs a command.",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
}
SHELL = {"type": "function", "function": {**FUNCTION, "strict": True}}
FULL: dict[str, Any] = {
    "model": "policy",
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "list", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "ls will do",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "shell", "arguments": '{"command": "ls"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "a.txt"}]},
    ],
    "tools": [SHELL],
    "tool_choice": {"type": "function", "function": {"name": "shell"}},
    "parallel_tool_calls": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}},
    },
    "max_completion_tokens": 100,
    "temperature": 1,
    "top_p": 0.9,
    "seed": 7,
    "stop": ["END"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "logit_bias": {},
    "presence_penalty": 0,
    "logprobs": False,
    "store": False,
    "reasoning_effort": "high",
}
HELLO: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": "hello"}]}


def read(body: dict[str, Any]) -> Asked:
    return chat_completions.read(body, {})


def test_everything_that_a_body_can_ask_for_is_read() -> None:
    asked = read(FULL)
    assert asked == Asked(
        model="policy",
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="list", name="ann"),
            Message(
                role="assistant",
                reasoning="ls will do",
                tool_calls=(ToolCall(name="shell", arguments={"command": "ls"}, id="call_1"),),
            ),
            Message(role="tool", content="a.txt", tool_call_id="call_1", name="shell"),
        ),
        tools=({"type": "function", "function": FUNCTION},),
        tool_choice="function:shell",
        parallel_calls=False,
        response_schema={"type": "object"},
        max_tokens=100,
        temperature=1.0,
        top_p=0.9,
        seed=7,
        stop=("END",),
        stream=True,
        stream_usage=True,
    )


def test_what_is_left_out_or_null_is_left_to_the_server() -> None:
    nulls = dict.fromkeys(FULL.keys() - HELLO.keys())
    assert read(HELLO | nulls) == read(HELLO)
    assert read(HELLO) == Asked(model="policy", messages=(Message(role="user", content="hello"),))


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, "auto"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "required"}, "required"),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [SHELL]},
                }
            },
            "required",
        ),
    ],
)
def test_forms_of_tool_choice(fields: dict[str, Any], choice: str) -> None:
    assert read(HELLO | {"tools": [SHELL]} | fields).tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"n": 2}, "n: can only be 1 here, got 2 (int)"),
        ({"n": True}, "n: can only be 1 here, got True (bool)"),
        ({"logit_bias": {"50256": -100}}, "logit_bias: is not supported here"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: can only be 0 here, got 0.5"),
        ({"top_logprobs": 5}, "top_logprobs: can only be 0 here"),
        ({"logprobs": True}, "logprobs: is not supported here"),
        ({"modalities": ["text", "audio"]}, "modalities: can only be ['text'] here"),
        ({"functions": [{"name": "f"}]}, "functions: is not supported here"),
        ({"messages": []}, "messages: expected at least one, got none"),
        ({"messages": "hello"}, "messages: expected `array`, got `str`"),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role: expected one of system,"),
        ({"model": ""}, "model: expected `str` of length >= 1"),
        ({"temperature": -1}, "temperature: expected a number from 0 to 100, got -1"),
        ({"temperature": float("nan")}, "temperature: expected a number from 0 to 100, got nan"),
        ({"top_p": 0}, "top_p: expected more than 0"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"seed": 2**64}, "seed: expected a number of 64 bits"),
        ({"stop": ["a"] * 65}, "stop: expected at most 64 stop strings, got 65"),
        ({"stop": ""}, "stop: expected `str` of length >= 1"),
        (
            {"tools": [SHELL, SHELL]},
            "tools: expected tools of different names, got two that are called 'shell'",
        ),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type: expected a function with a name"),
        (
            {"tools": [{"function": {"name": "x" * 129}}]},
            "tools[0].function.name: expected `str` of length",
        ),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"properties": 0}}}]},
            "tools[0].function.parameters.properties: expected an object, got 0 (int)",
        ),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"required": 3}}}]},
            "tools[0].function.parameters.required: expected a list of names, got 3 (int)",
        ),
        ({"tool_choice": "required"}, "tool_choice: expected tools in the request"),
        ({"tool_choice": "shell"}, "tool_choice: expected auto, none, required or a function, got 'shell'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice: expected one of the tools of the request, got 'f'",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type: expected text, json_object, or"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(HELLO | fields)
    assert caught.value.message.startswith(complaint)
    assert caught.value.param == complaint.partition(":")[0]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "content[0].type: expected text",
        ),
        (
            {"role": "user", "content": [{"type": "text"}] * 4097},
            "content: expected at most 4096 parts, got 4097",
        ),
        ({"role": "assistant", "audio": {"id": "a"}}, "audio: is not supported"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "function_call: is not supported"),
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls[0].type: expected a call of a function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "tool_calls[0].function.arguments: expected a JSON object, got [1] (list)",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": NaN}'}}]},
            "tool_calls[0].function.arguments: expected a JSON object as text",
        ),
        (
            {"role": "user", "tool_calls": [{"function": {"name": "f"}}]},
            "tool_calls: expected calls in messages of the role assistant, got user",
        ),
    ],
)
def test_messages_that_are_refused_are_named(message: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(HELLO | {"messages": [{"role": "user", "content": "x"}, message]})
    assert caught.value.message.startswith(f"messages[1].{complaint}")


def test_numbers_of_things_have_bounds() -> None:
    with pytest.raises(BadRequestError, match="messages: expected at most 16384 messages, got 100000"):
        read(HELLO | {"messages": HELLO["messages"] * 100_000})
    tools = [{"function": {"name": f"f{i}"}} for i in range(10_000)]
    with pytest.raises(BadRequestError, match="tools: expected at most 1024 tools, got 10000"):
        read(HELLO | {"tools": tools})
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(BadRequestError, match="expected at most 64 values in one another"):
        read(HELLO | {"tools": [{"function": {"name": "f", "parameters": deep}}]})
    with pytest.raises(BadRequestError, match="expected at most 100000 values in it"):
        read(HELLO | {"tools": [{"function": {"name": "f", "parameters": {"a": [0] * 100_001}}}]})
    call = {"function": {"name": "f", "arguments": "[" * 100_000}}
    with pytest.raises(BadRequestError, match="arguments: expected a JSON object as text"):
        read(HELLO | {"messages": [{"role": "assistant", "tool_calls": [call]}]})


def test_any_json_is_read_or_refused() -> None:
    readable, refusals = readings(chat_completions, mutated(FULL))
    assert min(readable, refusals) > 300


@pytest.mark.parametrize("replied", ALL)
def test_a_reply_reads_back_as_what_was_said(replied: Any) -> None:
    message = chat_completions.body(replied, read(HELLO))["choices"][0]["message"]
    assert read({"model": "policy", "messages": [message]}).messages == (replied.message,)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def test_openais_client_reads_text(server: ApiServer, client: Any) -> None:
    server.answer = TEXT
    completion = client.chat.completions.create(**HELLO)
    (choice,) = completion.choices
    assert choice.message.content == TEXT.message.content
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert (completion.id, completion.model) == ("chatcmpl-r1", "policy")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 5, 35)
    assert usage.prompt_tokens_details.cached_tokens == 12
    assert server.asked[-1] == read(HELLO)


def test_openais_client_reads_calls(server: ApiServer, client: Any) -> None:
    server.answer = CALLS
    (choice,) = client.chat.completions.create(**HELLO).choices
    assert choice.finish_reason == "tool_calls"
    called = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert called == [(c.id, c.name, c.arguments) for c in CALLS.message.tool_calls]
    again = client.chat.completions.create(model="policy", messages=[choice.message])
    assert again.choices
    assert server.asked[-1].messages == (CALLS.message,)


@pytest.mark.parametrize("replied", [TEXT, CALLS, STOPPED])
def test_openais_client_puts_a_stream_together(server: ApiServer, client: Any, replied: Any) -> None:
    server.answer = replied
    with client.chat.completions.stream(**HELLO, stream_options={"include_usage": True}) as stream:
        whole = stream.get_final_completion()
    server.asked.clear()
    (choice,) = whole.choices
    client.chat.completions.create(model="policy", messages=[choice.message.to_dict()], stream=False)
    assert server.asked[-1].messages == (replied.message,)
    assert choice.finish_reason == replied.finish_reason
    assert whole.usage.completion_tokens == replied.completion_tokens


def test_usage_comes_in_a_stream_only_if_asked_for(server: ApiServer, client: Any) -> None:
    server.answer = CUT
    chunks = list(client.chat.completions.create(**HELLO, stream=True))
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


async def from_async_client(url: str) -> list[Any]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:
        whole = await client.chat.completions.create(**HELLO)
        stream = await client.chat.completions.create(**HELLO, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream]
        return [whole.choices[0].message.content, "".join(filter(None, pieces))]


def test_openais_asynchronous_client(server: ApiServer) -> None:
    server.answer = STOPPED
    assert asyncio.run(from_async_client(server.url)) == [STOPPED.message.content] * 2


@pytest.mark.parametrize(
    ("refused", "name", "code"),
    [
        (BadRequestError("n: can only be 1", param="n"), "BadRequestError", None),
        (ContextLengthError(found=9000, most=8192), "BadRequestError", "context_length_exceeded"),
        (UnknownKeyError("expected a key of a session"), "AuthenticationError", "invalid_api_key"),
        (ConflictError("the session is closed"), "ConflictError", "conflict"),
        (OverloadedError("64 sessions are open", retry_after_s=3.2), "RateLimitError", "rate_limit_exceeded"),
        (UpstreamError("no policy"), "InternalServerError", "upstream_unavailable"),
    ],
)
def test_openais_client_knows_refusals(
    server: ApiServer, client: Any, refused: Any, name: str, code: str | None
) -> None:
    server.answer = refused
    with pytest.raises(getattr(openai, name)) as caught:
        client.chat.completions.create(**HELLO)
    assert caught.value.code == code
    assert caught.value.param == (refused.param or None)
    if isinstance(refused, OverloadedError):
        assert caught.value.response.headers["retry-after"] == "4"


def test_openais_client_sees_a_stream_break_off(server: ApiServer, client: Any) -> None:
    server.answer, server.dies_with = TEXT, UpstreamError("the policy died")
    try:
        with pytest.raises(openai.APIError, match="the policy died"):
            list(client.chat.completions.create(**HELLO, stream=True))
    finally:
        server.dies_with = None
