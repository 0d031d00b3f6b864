"""The client of chat completions, against a real server that answers well, badly, late or never."""

import json
import threading
from typing import Any

import pytest

from tests.wire.chat_server import Answer, chat_server
from trieline.wire.chat_completions import MOST_BYTES, ChatEndpoint, EndpointError
from trieline.wire.errors import ContextFullError, PeerTimeoutError, WireError

HELLO = [{"role": "user", "content": "hello"}]


def endpoint(url: str, key: str = "") -> ChatEndpoint:
    return ChatEndpoint(url=url, model="me/model", key=key)


def test_what_is_asked_and_what_comes_back() -> None:
    with chat_server(lambda body: "hi \ud800") as server:
        reply = endpoint(server.url, key="secret").ask(
            HELLO, sampling={"max_tokens": 5, "seed": 3}, timeout_s=10
        )
    assert (reply.text, reply.whole) == ("hi ?", True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 10)
    assert server.requests == [{"model": "me/model", "messages": HELLO, "max_tokens": 5, "seed": 3}]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_fields_of_the_request_can_be_changed_and_left_out() -> None:
    with chat_server(lambda body: "hi") as server:
        link = ChatEndpoint(url=server.url, model="m", fields={"max_tokens": None, "top_k": 5})
        link.ask(HELLO, sampling={"max_tokens": 5, "seed": 3}, timeout_s=10)
    assert server.requests == [{"model": "m", "messages": HELLO, "seed": 3, "top_k": 5}]


def test_without_a_key_none_is_sent_and_it_is_never_shown() -> None:
    with chat_server(lambda body: "hi") as server:
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=10)
    assert "Authorization" not in server.headers[0]
    assert "secret" not in repr(endpoint(server.url, key="secret"))


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500, body=b"oh"),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(status=503),
        Answer(status=200, headers={"Transfer-Encoding": "chunked"}),  # and then no chunk
    ],
)
def test_what_may_pass_is_asked_again(failure: Answer) -> None:
    answers: list[str | Answer] = [failure, "hi"]
    with chat_server(lambda body: answers.pop(0)) as server:
        assert endpoint(server.url).ask(HELLO, sampling={}, timeout_s=20).text == "hi"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"<html>", "<html>"),
        (b"[" * 100_000, "[["),
        (b'{"choices": []}', "choices"),
        (b'{"choices": [{"message": {"content": 5}}]}', "content"),
        (b'{"choices": {"message": {"content": "x"}}}', "choices"),
        (b"\xff\xfe", "�"),
    ],
)
def test_an_answer_of_another_protocol_is_an_error(body: bytes, got: str) -> None:
    with chat_server(lambda _: Answer(body=body)) as server, pytest.raises(EndpointError) as error:
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=10)
    assert "expected choices[0].message.content as text" in str(error.value)
    assert got in str(error.value)
    assert len(server.requests) == 1


def test_an_answer_that_is_too_large_is_an_error() -> None:
    with (
        chat_server(lambda _: Answer(body=b"x" * (MOST_BYTES + 1))) as server,
        pytest.raises(EndpointError, match="expected an answer of at most 16,777,216 bytes, got more"),
    ):
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=20)


@pytest.mark.parametrize("tokens", [-1, 2**31, True, "5", None, 1.5])
def test_counts_that_are_none_are_not_known(tokens: Any) -> None:
    reply = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    body = json.dumps(reply | {"usage": {"prompt_tokens": tokens, "completion_tokens": 7}}).encode()
    with chat_server(lambda _: Answer(body=body)) as server:
        found = endpoint(server.url).ask(HELLO, sampling={}, timeout_s=10)
    assert (found.text, found.whole, found.prompt_tokens, found.completion_tokens) == ("", False, None, 7)


def test_a_refusal_is_not_asked_again_and_no_redirect_followed() -> None:
    for status in (400, 401, 404, 302):
        answer = Answer(status=status, body=b"no", headers={"Location": "http://127.0.0.1:1/"})
        with chat_server(lambda _, answer=answer: answer) as server, pytest.raises(EndpointError) as error:  # type: ignore[misc]
            endpoint(server.url).ask(HELLO, sampling={}, timeout_s=10)
        assert f"HTTP status {status}: no" in str(error.value)
        assert len(server.requests) == 1


def test_a_chat_that_is_too_long_is_told_apart() -> None:
    said = b'{"error": {"message": "This model\'s maximum context length is 4096 tokens"}}'
    with chat_server(lambda _: Answer(status=400, body=said)) as server, pytest.raises(ContextFullError):
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=10)


def test_one_that_hangs_or_is_not_there_is_waited_for_and_no_longer() -> None:
    late = r"waited 1 s for a reply of me/model .*got no whole answer"
    with chat_server(lambda _: Answer(hangs=True)) as server, pytest.raises(PeerTimeoutError, match=late):
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=1)
    with pytest.raises(PeerTimeoutError, match="Connection refused"):
        endpoint(server.url).ask(HELLO, sampling={}, timeout_s=1)


def test_closing_ends_the_wait() -> None:
    asked = threading.Event()

    def hang(_: object) -> Answer:
        asked.set()
        return Answer(hangs=True)

    with chat_server(hang) as server:
        link = endpoint(server.url)

        def close() -> None:
            asked.wait()
            link.close()

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(WireError, match="is closed"):
            link.ask(HELLO, sampling={}, timeout_s=60)
        closer.join()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80", "ftp://h/v1", "http:///v1", "http://u:p@h/v1", "http://h:x/v1", "http://h/v1?k=1"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(EndpointError, match="expected an endpoint such as http://"):
        endpoint(url)


def test_a_key_with_a_line_end_is_refused() -> None:
    with pytest.raises(EndpointError, match="expected a key of printable ASCII"):
        endpoint("http://127.0.0.1/v1", key="a\r\nX: y")
