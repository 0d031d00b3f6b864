"""Binary files in a git diff: `GIT binary patch`, then lines of base 85 that hold a zlib stream.

A stream is the file itself (`literal`) or what turns the old file into it (`delta`). Either may be far larger
than the text that holds it, so both are unpacked here, within bounds, before git does the same without.
"""

import base64
import re
import zlib
from collections.abc import Iterator

from trieline.envs.errors import PatchError

_START = re.compile(rb"(literal|delta) (\d{1,12})")
_LENGTHS = {ord(c): n for n, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", start=1)}
"""The first character of a line: how many bytes it holds."""


def is_binary_start(line: bytes) -> bool:
    """Whether `line` begins one direction of a binary change."""
    return _START.fullmatch(line) is not None


def unpacked_size(start: bytes, lines: list[bytes], *, most: int) -> int:
    """Bytes of the file that one direction of a binary change makes.

    Args:
        start: its first line, `literal N` or `delta N`; N is the length of the unpacked stream.
        lines: those of base 85 after it.
        most: bytes that are unpacked.

    Raises:
        PatchError: `too_large`, or `corrupt`: it is not in the format.
    """
    match = _START.fullmatch(start)
    assert match is not None
    kind, declared = match[1], int(match[2])
    if declared > most:
        raise too_large(declared, most)
    stream = b"".join(map(_decoded, lines))
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(stream, declared + 1)
    except zlib.error as error:
        msg = f"expected a zlib stream in a binary patch: {error}"
        raise PatchError(msg, cause="corrupt") from error
    if len(unpacked) != declared or not unpacker.eof:
        msg = f"expected {declared:,} bytes in a binary patch, as its first line says, got another number"
        raise PatchError(msg, cause="corrupt")
    size = declared if kind == b"literal" else _result_size(unpacked)
    if size > most:
        raise too_large(size, most)
    return size


def too_large(size: int, most: int) -> PatchError:
    """The error of binary files of `size` bytes where at most `most` may come."""
    msg = f"expected binary files of at most {most:,} bytes, got {size:,}"
    return PatchError(msg, cause="too_large")


def _decoded(line: bytes) -> bytes:
    try:
        length, data = _LENGTHS[line[0]], base64.b85decode(line[1:])
    except (LookupError, ValueError) as error:
        msg = "expected a line of base 85 in a binary patch"
        raise PatchError(msg, cause="corrupt") from error
    if len(data) != (length + 3) // 4 * 4:
        msg = f"expected {length} bytes in a line of a binary patch, got up to {len(data)}"
        raise PatchError(msg, cause="corrupt")
    return data[:length]


def _result_size(delta: bytes) -> int:
    """A delta begins with the sizes of the old file and of the new one."""
    numbers = _numbers(delta)
    next(numbers, 0)
    size = next(numbers, None)
    if size is None:
        msg = "expected two sizes at the start of a binary delta"
        raise PatchError(msg, cause="corrupt")
    return size


def _numbers(data: bytes) -> Iterator[int]:
    """Seven bits a byte, the lowest first; the highest bit says that another byte follows."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield value
            value = shift = 0
        elif shift > 63:
            return
