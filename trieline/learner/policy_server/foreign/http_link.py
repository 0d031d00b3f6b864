"""One HTTP server of an engine: every call has limits on time and size, and every error names the address.

What it says is a stranger's: bounded before it is read, decoded by type, and shortened before it is shown.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec

from trieline.common.credentials import without_credentials
from trieline.common.text import shortened
from trieline.learner.policy_server.errors import (
    EngineAwayError,
    EngineError,
    EngineLateError,
    InvalidRequestError,
)

CONNECT_S = 5.0
# An idle connection is closed here before there (vLLM, SGLang: 5 s), and not just when something is asked.
KEEP_S = 2.0
READ_BYTES = 1 << 20
SHOWN_REASON = 300
# What the engine calls the fault of what it was sent; other codes are the engine's, or of its settings.
REQUEST_FAULTS = (400, 413, 422)
# What stands before it, or it while it starts or ends; and a token that it does not know.
AWAY = (401, 403, 502, 503, 504)

T = TypeVar("T")


class HttpLink:
    """Belongs to one event loop, in which it must be made."""

    def __init__(
        self, kind: str, url: str, *, socket: str = "", token: str = "", timeout_s: float, max_bytes: int
    ) -> None:
        """`kind`: what runs there, for errors. `socket`: the path of a Unix socket in place of TCP."""
        self.name = f"{kind} at {f'unix:{socket}' if socket else without_credentials(url)}"
        self._url = url.rstrip("/")
        self.timeout_s = timeout_s
        """Of a call that says no other."""
        self._max_bytes = max_bytes
        headers = {"Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        kept: Any = {"limit": 0, "keepalive_timeout": KEEP_S}
        connector = aiohttp.UnixConnector(socket, **kept) if socket else aiohttp.TCPConnector(**kept)
        # Nothing is unpacked: a short answer stays a short one.
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False)

    async def get(self, path: str, kind: type[T], *, timeout_s: float | None = None) -> T:
        """The answer, as `kind`. Raises EngineError."""
        return self._decoded(path, kind, await self._call("GET", path, None, timeout_s))

    async def post(
        self, path: str, body: Mapping[str, Any], kind: type[T], *, timeout_s: float | None = None
    ) -> T:
        """The answer, as `kind`.

        Raises:
            InvalidRequestError: the engine says that the request can't be answered.
            EngineError: there is no answer, or not such a one.
        """
        return self._decoded(path, kind, await self._call("POST", path, body, timeout_s))

    async def order(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> bytes:
        """Tell it to do something. Raises EngineError unless it says that it did."""
        try:
            return await self._call("POST", path, body or {}, timeout_s)
        except InvalidRequestError as error:
            raise EngineError(str(error)) from error

    async def order_for(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        """As `order`; what it says of it, as `kind`."""
        return self._decoded(path, kind, await self.order(path, body))

    async def is_there(self, path: str, *, timeout_s: float) -> str:
        """Why it does not answer with success; "": it does."""
        try:
            await self._call("GET", path, None, timeout_s)
        except EngineError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        await self._session.close()

    async def _call(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> bytes:
        seconds = timeout_s or self.timeout_s
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=None if body is None else msgspec.json.encode(body),
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_S)),
                # A token goes nowhere else.
                allow_redirects=False,
            ) as response:
                status, data = response.status, await self._read(path, response)
        except aiohttp.ConnectionTimeoutError as error:
            msg = f"{self.name} took no connection within {min(seconds, CONNECT_S):g} s"
            raise EngineAwayError(msg) from error
        except TimeoutError as error:
            msg = f"{self.name} did not answer {path} within {seconds:g} s"
            raise EngineLateError(msg) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = shortened(without_credentials(str(error)), SHOWN_REASON) or type(error).__name__
            msg = f"{self.name} is not to be reached ({path}): {why}"
            raise EngineAwayError(msg) from error
        if status in REQUEST_FAULTS and body is not None:
            msg = f"{self.name} refused {path}: {_reason(data)}"
            raise InvalidRequestError(msg)
        if status != 200:
            msg = f"{self.name} answered {path} with status {status}: {_reason(data)}"
            raise (EngineAwayError if status in AWAY else EngineError)(msg)
        return data

    async def _read(self, path: str, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_chunked(READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                msg = f"{self.name} answered {path} with more than {self._max_bytes} bytes"
                raise EngineError(msg)
        return b"".join(parts)

    def _decoded(self, path: str, kind: type[T], data: bytes) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            msg = f"{self.name} answered {path} with what was not expected: {error}; got {_reason(data)}"
            raise EngineError(msg) from error


def _reason(data: bytes) -> str:
    return shortened(data[: 4 * SHOWN_REASON].decode("utf-8", "replace"), SHOWN_REASON) or "(nothing)"
