"""Messages to frames and back: one msgpack header, then the raw bytes of each array.

In the header an array is `[dtype, shape]`. Large ones follow as a frame each, in the order in which the
encoder met them, and one last frame packs all small ones, each padded to 8 bytes: for ZeroMQ a frame costs
more than copying a few kilobytes. Large arrays are copied neither way: encoded frames are views of the
message's arrays (which must not change until they are sent), decoded arrays are read-only views of the
frames. Nothing is ever unpickled: whatever the bytes are, `decode` returns a message of the type that was
asked for or raises `MessageError`.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from trieline.wire.errors import MessageError

OutFrame: TypeAlias = bytes | memoryview
InFrame: TypeAlias = bytes | memoryview | zmq.Frame

# Arrays of fewer bytes are packed. Frames up to 64 KiB are copied by ZeroMQ's binding in any case.
SMALL_BYTES = 16 * 1024
PADDING = 8
ZEROS = bytes(PADDING)
# A tree has sixteen arrays, and no other message has more.
MAX_FRAMES = 24
# Headers hold names, causes and short notes: 4 MiB is a tree of more than 400,000 nodes. The bound keeps
# the Python objects that a hostile header unfolds to at a few hundred megabytes.
MAX_HEADER_BYTES = 4 * 1024 * 1024


def encode(message: object) -> list[OutFrame]:
    """The frames of `message`, a Struct or dataclass."""
    large: list[OutFrame] = []
    small: list[OutFrame] = []

    def take_array(value: object) -> object:
        if not isinstance(value, np.ndarray):
            msg = f"expected arrays and plain values in {type(message).__name__}, got {type(value).__name__}"
            raise MessageError(msg)
        raw = _raw_bytes(value)
        if value.nbytes >= SMALL_BYTES:
            large.append(raw)
        else:
            small.append(raw)
            if excess := value.nbytes % PADDING:
                small.append(ZEROS[excess:])
        return _little_endian_name(value.dtype), value.shape

    header = msgspec.msgpack.encode(message, enc_hook=take_array)
    return [header, *large, b"".join(small)] if small else [header, *large]


def decode(frames: Sequence[InFrame], message_type: Any, *, max_bytes: int) -> Any:
    """The message in `frames`, of `message_type` (a type or a union of tagged ones).

    Frames, their count and sum are bounded before anything is decoded; then the types of all fields, and the
    dtype, dimensions and length of all arrays, are checked against `message_type`. Raises MessageError.
    """
    _expect_bounded(frames, max_bytes)
    arrays = _being_decoded.arrays = _Arrays(frames)
    try:
        message = _decoder(message_type).decode(view(frames[0]))
    # UnicodeDecodeError is a ValueError; RecursionError comes from nesting without end.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = f"expected {_names(message_type)}, got a header that is none: {error}"
        raise MessageError(msg) from error
    arrays.expect_all_taken()
    return message


def num_bytes(frames: Sequence[InFrame]) -> int:
    """Sum of the frames' lengths."""
    return sum(_length(frame) for frame in frames)


_being_decoded = threading.local()


@lru_cache(maxsize=64)
def _decoder(message_type: Any) -> "msgspec.msgpack.Decoder[Any]":
    """Made once: msgspec takes as long to look through the types as to decode a small tree."""

    def take(kind: Any, value: object) -> npt.NDArray[Any]:
        arrays: _Arrays = _being_decoded.arrays
        return arrays.take(kind, value)

    return msgspec.msgpack.Decoder(message_type, dec_hook=take)


class _Arrays:
    """Hands out the arrays of one message in the order of its header."""

    def __init__(self, frames: Sequence[InFrame]) -> None:
        self._frames = frames
        self._large_taken = 0
        self._packed: OutFrame | None = None
        self._packed_taken = 0

    def take(self, kind: Any, value: object) -> npt.NDArray[Any]:
        """The array that `value`, `[dtype, shape]`, announces and that the annotation `kind` expects."""
        # A tree has sixteen of them: all checks stand here, for a call costs as much as any.
        dtype, name, itemsize = _expected_column(kind)
        if (
            type(value) is not list
            or len(value) != 2
            or value[0] != name
            or type(shape := value[1]) is not list
            or len(shape) != 1
            or type(length := shape[0]) is not int
            or length < 0
        ):
            msg = f"expected a one-dimensional array of {name}, got {repr(value)[:100]}"
            raise MessageError(msg)
        num_bytes = length * itemsize
        if num_bytes >= SMALL_BYTES:
            return np.ndarray((length,), dtype, _aligned(self._take_large(num_bytes)))
        packed = self._packed
        if packed is None:
            packed = _aligned(view(self._frames[-1])) if len(self._frames) > 1 else b""
            self._packed = packed
        start = self._packed_taken
        self._packed_taken = start + num_bytes + -num_bytes % PADDING
        if self._packed_taken > len(packed):
            msg = f"expected at least {self._packed_taken} bytes of small arrays, got {len(packed)}"
            raise MessageError(msg)
        return np.ndarray((length,), dtype, packed, start)

    def expect_all_taken(self) -> None:
        expected = 1 + self._large_taken + (self._packed is not None)
        if expected != len(self._frames):
            msg = f"expected {expected} frames as the header says, got {len(self._frames)}"
            raise MessageError(msg)
        if self._packed is not None and len(self._packed) != self._packed_taken:
            msg = f"expected {self._packed_taken} bytes of small arrays, got {len(self._packed)}"
            raise MessageError(msg)

    def _take_large(self, num_bytes: int) -> OutFrame:
        self._large_taken += 1
        found = self._frames[self._large_taken] if self._large_taken < len(self._frames) else b""
        if _length(found) != num_bytes:
            msg = f"expected frame {self._large_taken} of {num_bytes} bytes, got {_length(found)}"
            raise MessageError(msg)
        return view(found)


def _aligned(raw: OutFrame) -> OutFrame:
    """The bytes, read-only, where numbers may begin at every eighth.

    ZeroMQ cuts small frames out of one receive buffer, at any offset.
    """
    words = np.ndarray((len(raw) // PADDING,), np.int64, raw)
    return memoryview(raw).toreadonly() if words.flags.aligned else bytes(raw)


def _raw_bytes(array: npt.NDArray[Any]) -> OutFrame:
    if array.dtype.str[0] == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    # A copy only of what is not contiguous.
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""


def view(frame: InFrame) -> OutFrame:
    """The bytes of a frame, not copied."""
    return frame.buffer if isinstance(frame, zmq.Frame) else frame


def _length(frame: InFrame) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def _expect_bounded(frames: Sequence[InFrame], max_bytes: int) -> None:
    if not 1 <= len(frames) <= MAX_FRAMES:
        msg = f"expected 1 to {MAX_FRAMES} frames, got {len(frames)}"
        raise MessageError(msg)
    if (header := _length(frames[0])) > MAX_HEADER_BYTES:
        msg = f"expected a header of at most {MAX_HEADER_BYTES} bytes, got {header}"
        raise MessageError(msg)
    if (total := num_bytes(frames)) > max_bytes:
        msg = f"expected at most {max_bytes} bytes, got {total}"
        raise MessageError(msg)


@lru_cache(maxsize=64)
def _expected_column(kind: Any) -> tuple[np.dtype[Any], str, int]:
    """The dtype, its name and its size: `NDArray[np.int32]` is `ndarray[shape, dtype[int32]]`."""
    (scalar,) = get_args(get_args(kind)[1])
    dtype = np.dtype(scalar).newbyteorder("<")
    return dtype, dtype.str, dtype.itemsize


@lru_cache(maxsize=64)
def _little_endian_name(dtype: np.dtype[Any]) -> str:
    return dtype.newbyteorder("<").str


def _names(message_type: Any) -> str:
    kinds = get_args(message_type) or (message_type,)
    return " or ".join(kind.__name__ for kind in kinds)
