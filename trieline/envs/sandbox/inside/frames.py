"""Requests and replies between a sandbox and the keeper inside it: a small JSON header and raw bytes.

frame = header length (uint32, big endian) | body length (uint32) | header (JSON object) | body
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 1024 * 1024
MAX_BODY = (1 << 32) - 1


class FrameError(Exception):
    """The other end sent what is not a frame, or one over its bounds."""


def pack(header: dict[str, Any], body_length: int = 0) -> bytes:
    """A frame up to its body, which the caller sends after it."""
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER_BYTES:
        msg = f"a header of {len(text)} bytes is over the limit of {MAX_HEADER_BYTES}"
        raise FrameError(msg)
    if body_length > MAX_BODY:
        msg = f"a body of {body_length} bytes is over the limit of {MAX_BODY}"
        raise FrameError(msg)
    return LENGTHS.pack(len(text), body_length) + text


def unpack(read_exactly: Callable[[int], bytes], max_body: int) -> tuple[dict[str, Any], int]:
    """Header and body length of one frame; the body is still to be read.

    `read_exactly(byte count)` gives the bytes of the stream.
    """
    header_length, body_length = LENGTHS.unpack(read_exactly(LENGTHS.size))
    if header_length > MAX_HEADER_BYTES or body_length > max_body:
        msg = (
            f"expected a header of at most {MAX_HEADER_BYTES} bytes and a body of at most {max_body},"
            f" got {header_length} and {body_length}"
        )
        raise FrameError(msg)
    try:
        header = json.loads(read_exactly(header_length))
    except ValueError as error:
        msg = f"expected a JSON header, got something else: {error}"
        raise FrameError(msg) from error
    if not isinstance(header, dict):
        msg = f"expected a JSON object as header, got {type(header).__name__}"
        raise FrameError(msg)
    return header, body_length
