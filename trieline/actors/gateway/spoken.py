"""What is said, apart from how it is spelled: by this a chat that comes again is known.

Clients trim texts, give calls and items new ids, write arguments with other spaces, leave the thinking out.
None of that is news to the model, so none of it is in a key. Everything else is.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from trieline.common.message import Message, Tool

KEY_BYTES = 16
_ENCODER = msgspec.json.Encoder(order="sorted")


def start_key(tools: Iterable[Tool]) -> bytes:
    """Of a chat in which nothing has been said. The order of tools is told to the model, so it counts."""
    return _digest(b"", _ENCODER.encode(list(tools)))


def later_key(before: bytes, message: Message) -> bytes:
    """Of the chat `before`, one message later."""
    return _digest(before, _ENCODER.encode(_said(message)))


def keys(start: bytes, messages: Iterable[Message]) -> Iterator[bytes]:
    """After each of the messages."""
    for message in messages:
        start = later_key(start, message)
        yield start


def _said(message: Message) -> list[object]:
    calls = [[call.name, call.arguments] for call in message.tool_calls]
    role = "system" if message.role == "developer" else message.role
    return [role, message.content.strip(), *calls]


def _digest(before: bytes, said: bytes) -> bytes:
    return hashlib.blake2b(before + said, digest_size=KEY_BYTES).digest()
