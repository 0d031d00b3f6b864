"""`/v1/messages`: what bodies ask for, what is refused, and what Anthropic's own client reads."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.actors.gateway.api_server import ApiServer, running_server
from tests.actors.gateway.mutated import mutated, readings
from tests.actors.gateway.replies import ALL, CALLS, CUT, STOPPED, TEXT
from trieline.actors.gateway.apis import anthropic_messages
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import (
    BadRequestError,
    ConflictError,
    ContextLengthError,
    OverloadedError,
    TooLargeError,
    UnknownKeyError,
    UpstreamError,
)
from trieline.common.message import Message, ToolCall

anthropic = pytest.importorskip("anthropic")

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}}
SHELL = {"name": "shell", "description": "Runs a command.", "input_schema": SCHEMA}
FULL: dict[str, Any] = {
    "model": "policy",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "list"}, {"type": "text", "text": "all"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "ls", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Yes."},
                {"type": "tool_use", "id": "t1", "name": "shell", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "t2", "name": "shell", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "no command"}],
                    "is_error": True,
                },
                {"type": "text", "text": "go on"},
            ],
        },
        {"role": "system", "content": "In German."},
    ],
    "tools": [SHELL, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "tool", "name": "shell", "disable_parallel_tool_use": True},
    "stop_sequences": ["END"],
    "stream": True,
    "temperature": 1.0,
    "top_k": 40,
    "top_p": 0.5,
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u"},
    "context_management": {"edits": []},
}
HELLO: dict[str, Any] = {
    "model": "policy",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hello"}],
}


def read(body: dict[str, Any]) -> Asked:
    return anthropic_messages.read(body, {})


def test_everything_that_a_body_can_ask_for_is_read() -> None:
    function = {"name": "shell", "description": "Runs a command.", "parameters": SCHEMA}
    assert read(FULL) == Asked(
        model="policy",
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="list\nall"),
            Message(
                role="assistant",
                content="Yes.",
                reasoning="ls",
                tool_calls=(
                    ToolCall(name="shell", arguments={"command": "ls"}, id="t1"),
                    ToolCall(name="shell", id="t2"),
                ),
            ),
            Message(role="tool", content="a.txt", tool_call_id="t1", name="shell"),
            Message(role="tool", content="Error: no command", tool_call_id="t2", name="shell"),
            Message(role="user", content="go on"),
            Message(role="system", content="In German."),
        ),
        tools=({"type": "function", "function": function},),
        tool_choice="function:shell",
        parallel_calls=False,
        response_schema={"type": "object"},
        max_tokens=100,
        temperature=1.0,
        top_p=0.5,
        top_k=40,
        stop=("END",),
        stream=True,
    )


def test_what_is_left_out_or_null_is_left_to_the_server() -> None:
    nulls = dict.fromkeys(FULL.keys() - HELLO.keys())
    assert read(HELLO | nulls) == read(HELLO)
    expected = Asked(model="policy", messages=(Message(role="user", content="hello"),), max_tokens=50)
    assert read(HELLO) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], [("user", "")]),
        ([{"type": "tool_result", "tool_use_id": "t"}], [("tool", "")]),
        (
            [
                {"type": "text", "text": "before"},
                {"type": "tool_result", "tool_use_id": "t", "content": "r"},
                {"type": "text", "text": "after"},
            ],
            [("user", "before"), ("tool", "r"), ("user", "after")],
        ),
    ],
)
def test_results_of_tools_are_messages_of_their_own(content: Any, said: list[tuple[str, str]]) -> None:
    asked = read(HELLO | {"messages": [{"role": "user", "content": content}]})
    assert [(m.role, m.content) for m in asked.messages] == said


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: is not supported here"),
        ({"container": "c"}, "container: is not supported here"),
        ({"messages": []}, "messages: expected at least one, got none"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role: expected one of user,"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0].type: expected text, got 'image'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}
                ]
            },
            "messages[0].content[0].content[0].type: expected text, got 'image'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]},
            "messages[0].content[0].content: expected `str | array | null`, got `int`",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": 1}]}]},
            "messages[0].content[0].input: expected an object, got 1 (int)",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}] * 129}]},
            "messages[0].content: expected at most 128 calls, got 129",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type: expected text"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name: expected a name, got none"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: expected tools in the request"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.type: expected auto, any, none, or tool"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: expected json_schema"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(HELLO | fields)
    assert caught.value.message.startswith(complaint)


def test_any_json_is_read_or_refused() -> None:
    readable, refusals = readings(anthropic_messages, mutated(FULL))
    assert min(readable, refusals) > 300


@pytest.mark.parametrize("replied", ALL)
def test_a_reply_reads_back_as_what_was_said(replied: Replied) -> None:
    content = anthropic_messages.body(replied, read(HELLO))["content"]
    assert read(HELLO | {"messages": [{"role": "assistant", "content": content}]}).messages == (
        replied.message,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("replied", "reason", "sequence"),
    [
        (TEXT, "end_turn", None),
        (CALLS, "tool_use", None),
        (CUT, "max_tokens", None),
        (STOPPED, "stop_sequence", "Observation:"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_client_reads_replies(
    server: ApiServer, client: Any, replied: Replied, reason: str, sequence: str | None, streamed: bool
) -> None:
    server.answer = replied
    if streamed:
        with client.messages.stream(**HELLO) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**HELLO)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert (message.id, message.model) == (f"msg_{replied.request_id}", "policy")
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == replied.prompt_tokens
    assert usage.cache_read_input_tokens == replied.cached_tokens
    assert usage.output_tokens == replied.completion_tokens
    content = [block.to_dict() for block in message.content]
    client.messages.create(**HELLO | {"messages": [{"role": "assistant", "content": content}]})
    assert server.asked[-1].messages == (replied.message,)


async def from_async_client(url: str) -> list[str]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k") as client:
        whole = await client.messages.create(**HELLO)
        async with client.messages.stream(**HELLO) as stream:
            pieces = [text async for text in stream.text_stream]
        return [whole.content[0].text, "".join(pieces)]


def test_anthropics_asynchronous_client(server: ApiServer) -> None:
    server.answer = TEXT
    assert asyncio.run(from_async_client(server.url)) == [TEXT.message.content] * 2


@pytest.mark.parametrize(
    ("refused", "name", "kind"),
    [
        (BadRequestError("x: y", param="x"), "BadRequestError", "invalid_request_error"),
        (UnknownKeyError("no key"), "AuthenticationError", "authentication_error"),
        (ConflictError("closed"), "ConflictError", "invalid_request_error"),
        (TooLargeError("64 MiB"), "RequestTooLargeError", "request_too_large"),
        (OverloadedError("full", retry_after_s=2.0), "RateLimitError", "rate_limit_error"),
        (UpstreamError("no policy"), "APIStatusError", "api_error"),
    ],
)
def test_anthropics_client_knows_refusals(
    server: ApiServer, client: Any, refused: Any, name: str, kind: str
) -> None:
    server.answer = refused
    with pytest.raises(getattr(anthropic, name)) as caught:
        client.messages.create(**HELLO)
    assert caught.value.status_code == refused.status
    assert caught.value.body["error"] == {"type": kind, "message": refused.message}
    assert caught.value.body["request_id"] == "req_r1"
    assert caught.value.response.headers.get("retry-after") == ("2" if refused.status == 429 else None)


def test_a_full_context_is_said_in_the_words_that_agents_look_for(server: ApiServer, client: Any) -> None:
    server.answer = ContextLengthError(found=9000, most=8192)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 9000 tokens > 8192 maximum"):
        client.messages.create(**HELLO)


def test_anthropics_client_sees_a_stream_break_off(server: ApiServer, client: Any) -> None:
    server.answer, server.dies_with = TEXT, UpstreamError("the policy died")
    try:
        with pytest.raises(anthropic.APIError, match="the policy died"):
            list(client.messages.create(**HELLO, stream=True))
    finally:
        server.dies_with = None
