"""What every API can do; each is a module. None of them knows of sessions, tokens or sockets."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import RefusedError


class Api(Protocol):
    """A way to ask for replies."""

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
        """What a body (`json_body.body_of`) asks for. Raises `BadRequestError`, whatever the body is."""

    def body(self, replied: Replied, asked: Asked) -> dict[str, Any]:
        """The whole reply, for a request that is not streamed."""

    def events(self, replied: Replied, asked: Asked) -> Iterator[bytes]:
        """The whole reply as server-sent events."""

    def waiting(self) -> bytes:
        """What a stream may be sent at any time before that, so that nobody takes it for dead."""

    def error(self, error: RefusedError, request_id: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and body of a refusal."""

    def error_event(self, error: RefusedError, request_id: str = "") -> bytes:
        """The same where the stream has begun. It is the last that is sent."""
