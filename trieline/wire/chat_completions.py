"""A chat model behind HTTP: any endpoint of the chat-completions protocol, without streaming.

One request a connection. No redirect is followed, which would take the key elsewhere, and no proxy asked.
Everything that comes back is a stranger's: its size, its form and the time that it takes are bounded.
"""

import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from trieline.common.text import encodable, shortened
from trieline.wire.errors import ContextFullError, PeerTimeoutError, WireError

MOST_BYTES = 16 * 2**20
"""Of one answer; its text has at most as many."""
CONNECT_S = 30.0
RETRY_FIRST_S, RETRY_LAST_S = 0.5, 30.0
"""Pauses before asking again, doubled each time, shortened by up to a half at random."""
ASKED_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
"""HTTP statuses of what may pass."""
ALWAYS_REFUSED = frozenset({401, 403, 404})
"""Of a wrong key, model or address: every other request would be refused, too."""
MOST_TOKENS = 2**31
SHOWN = 300
"""Characters of an answer in an error message."""
# As vLLM, SGLang, llama.cpp and OpenAI say that a chat is too long.
_CONTEXT_FULL = (
    "context_length_exceeded",
    "context length",
    "context window",
    "context size",
    "maximum context",
)


class EndpointError(WireError):
    """The endpoint refuses for good, or what it answers is none of the protocol."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """One answer."""

    text: str
    """Without lone surrogates."""
    whole: bool
    """False: it was cut at the limit of tokens."""
    prompt_tokens: int | None = None
    """As the endpoint counts them; None: it does not say."""
    completion_tokens: int | None = None


@dataclass(kw_only=True)
class ChatEndpoint:
    """One model at one address. Any number of threads may ask."""

    url: str
    """Up to and without `/chat/completions`."""
    model: str
    key: str = field(default="", repr=False)
    """Sent as a bearer token; empty: none is."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of every request, in place of what is asked for; None: the field is not sent."""

    def __post_init__(self) -> None:
        """Raises EndpointError for an address that is none."""
        self._parts = urlsplit(self.url.rstrip("/"))
        try:
            port = self._parts.port
        except ValueError:
            port = -1
        fits = (
            self.url.isascii()
            and self._parts.scheme in ("http", "https")
            and self._parts.hostname
            and port != -1
        )
        if not fits or self._parts.query or self._parts.fragment or self._parts.username is not None:
            msg = f"expected an endpoint such as http://127.0.0.1:8000/v1, got {shortened(self.url, SHOWN)!r}"
            raise EndpointError(msg)
        if not self.key.isascii() or not self.key.isprintable():
            msg = "expected a key of printable ASCII, got another"
            raise EndpointError(msg)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._refusal = ""

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        sampling: Mapping[str, int | float],
        timeout_s: float,
    ) -> ChatReply:
        """One reply to a chat, asked for again where the failure may pass, until the time is over.

        Args:
            messages: with `role` and `content`.
            sampling: further fields of the request: `max_tokens`, `temperature`, `seed` and the like.
            timeout_s: for everything, pauses included.

        Raises:
            ContextFullError: the chat is longer than the model's context.
            EndpointError: the request is refused, or the answer is none of the protocol.
            PeerTimeoutError: there was no answer in time; says what came instead.
            WireError: the endpoint was closed meanwhile.
        """
        fields = {"model": self.model, "messages": list(messages), **sampling, **self.fields}
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        deadline, pause_s, asked, problem = time.monotonic() + timeout_s, RETRY_FIRST_S, 0, "nothing"
        while not self._closed.is_set():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                msg = (
                    f"waited {timeout_s:g} s for a reply of {self.model} at {self._shown} (asked {asked}x), "
                    f"got {problem}"
                )
                raise PeerTimeoutError(msg)
            asked += 1
            try:
                status, wait_s, data = self._exchange(body, left_s)
            except (OSError, http.client.HTTPException) as error:
                late = time.monotonic() >= deadline
                wait_s, problem = 0.0, "no whole answer" if late else _named(error)
            else:
                if status == 200:
                    return self._read(data)
                problem = f"HTTP status {status}: {shortened(data.decode('utf-8', 'replace'), SHOWN)}"
                if status not in ASKED_AGAIN:
                    self._refused(status, data, problem)
            waited_s = max(pause_s * random.uniform(0.5, 1.0), wait_s)
            self._closed.wait(min(waited_s, max(0.0, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, RETRY_LAST_S)
        msg = f"the link to {self._shown} is closed"
        raise WireError(msg)

    def expect_allowed(self) -> None:
        """Raise EndpointError if a request was refused as every other one would be."""
        if self._refusal:
            raise EndpointError(self._refusal)

    def close(self) -> None:
        """Whoever waits gets WireError. Idempotent."""
        self._closed.set()
        with self._lock:
            for one in self._open:
                _hang_up(one)

    @property
    def _shown(self) -> str:
        return shortened(self.url, SHOWN)

    def _exchange(self, body: bytes, left_s: float) -> tuple[int, float, bytes]:
        """Status, seconds that it asks to wait for, and the answer. OSError, HTTPException."""
        host, port = self._parts.hostname, self._parts.port
        assert host is not None
        https = self._parts.scheme == "https"
        make = http.client.HTTPSConnection if https else http.client.HTTPConnection
        began = time.monotonic()
        connection = make(host, port, timeout=min(left_s, CONNECT_S))
        timer = None
        try:
            connection.connect()
            link = connection.sock
            left_s -= time.monotonic() - began
            link.settimeout(max(left_s, 0.01))
            # A socket's own limit is for each piece: one that drips would never reach it.
            timer = threading.Timer(max(left_s, 0.01), _hang_up, [link])
            timer.daemon = True
            timer.start()
            with self._lock:
                self._open.add(link)
            try:
                if self._closed.is_set():
                    msg = "closed"
                    raise ConnectionAbortedError(msg)
                connection.request("POST", f"{self._parts.path}/chat/completions", body, self._headers())
                answer = connection.getresponse()
                return answer.status, _retry_after(answer), _bounded(answer)
            finally:
                with self._lock:
                    self._open.discard(link)
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def _refused(self, status: int, data: bytes, problem: str) -> None:
        said = data.decode("utf-8", "replace").lower()
        if status in (400, 413, 422) and any(sign in said for sign in _CONTEXT_FULL):
            msg = f"the chat has no room in the context of {self.model}: {problem}"
            raise ContextFullError(msg)
        msg = f"{self._shown} refused: {problem}"
        if status in ALWAYS_REFUSED:
            self._refusal = msg
        raise EndpointError(msg)

    def _read(self, data: bytes) -> ChatReply:
        """Raises EndpointError."""
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        choice = _first(_at(answer, "choices"))
        text = _at(_at(choice, "message"), "content")
        # A model that only calls tools, or refuses, says nothing.
        if text is None and isinstance(_at(choice, "message"), dict):
            text = ""
        if not isinstance(text, str):
            msg = (
                f"expected choices[0].message.content as text from {self._shown}, got "
                f"{shortened(data[: 4 * SHOWN].decode('utf-8', 'replace'), SHOWN)!r}"
            )
            raise EndpointError(msg)
        usage = _at(answer, "usage")
        return ChatReply(
            text=encodable(text, len(text)),
            whole=_at(choice, "finish_reason") != "length",
            prompt_tokens=_count(_at(usage, "prompt_tokens")),
            completion_tokens=_count(_at(usage, "completion_tokens")),
        )


def key_from(variable: str) -> str:
    """The key in an environment variable; "" if there is none."""
    return os.environ.get(variable, "").strip()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {shortened(error, SHOWN)}"


def _hang_up(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _bounded(answer: http.client.HTTPResponse) -> bytes:
    data = answer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        msg = f"expected an answer of at most {MOST_BYTES:,} bytes, got more"
        raise EndpointError(msg)
    return data


def _retry_after(answer: http.client.HTTPResponse) -> float:
    """Seconds; 0 where it names none, or a date."""
    named = answer.headers.get("Retry-After", "")
    return min(float(named), 3600.0) if named.isascii() and named.isdigit() else 0.0


def _at(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _count(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS
    return value if fits else None
