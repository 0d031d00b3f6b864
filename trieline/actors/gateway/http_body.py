"""Bodies of requests, and what is answered in JSON."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from trieline.actors.gateway.apis.api import Api
from trieline.actors.gateway.apis.json_body import body_of
from trieline.actors.gateway.errors import DeadlineError, RefusedError, TooLargeError

BODY_TIMEOUT_S = 120.0
"""For a client to send all of a body: 64 MiB at half a megabyte a second."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def read_body(request: web.Request) -> bytes:
    """All of it. Raises TooLargeError, DeadlineError."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        msg = f"expected a body of at most {request.client_max_size} bytes, got more"
        raise TooLargeError(msg) from None
    except TimeoutError:
        msg = f"expected the whole body within {BODY_TIMEOUT_S:g} s"
        raise DeadlineError(msg) from None


async def fields_of(request: web.Request) -> dict[str, Any]:
    """Its JSON object; of an empty body, an empty one. Raises RefusedError."""
    data = await read_body(request)
    return body_of(data) if data.strip() else {}


def key_of(request: web.Request) -> str:
    """The key that it brings; "": none. SDKs send it in one of these ways."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or request.headers.get("api-key") or ""


def refusal(api: Api, error: RefusedError) -> web.Response:
    """In the form of an API."""
    status, headers, body = api.error(error)
    return json_response(body, status=status, headers=headers)


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A body of plain values and records."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )
