"""Server-sent events: how a reply is streamed."""

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
"""How chat completions end a stream."""
WAITING = b": waiting\n\n"
"""A comment: it keeps a connection alive, and no client makes an event of it."""


def event(data: dict[str, Any], *, name: str = "") -> bytes:
    """One event; JSON has no line ends of its own."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
