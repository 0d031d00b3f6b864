"""Messages to frames and back: one msgpack header, then the raw bytes of each array.

In the header an array is `[dtype, shape]`. Large ones follow as a frame each, in the order in which the
encoder met them, and one last frame packs all small ones, each padded to 8 bytes: for ZeroMQ a frame costs
more than copying a few kilobytes. Large arrays are copied neither way: encoded frames are views of the
message's arrays (which must not change until they are sent), decoded arrays are read-only views of the
frames. Nothing is ever unpickled: whatever the bytes are, `decode` returns a message of the type that was
asked for or raises `MessageError`.
"""

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
        if value.nbytes < SMALL_BYTES:
            small.append(raw)
            small.append(bytes(-value.nbytes % PADDING))
        else:
            large.append(raw)
        return value.dtype.newbyteorder("<").str, value.shape

    header = msgspec.msgpack.encode(message, enc_hook=take_array)
    return [header, *large, b"".join(small)] if small else [header, *large]


def decode(frames: Sequence[InFrame], message_type: Any, *, max_bytes: int) -> Any:
    """The message in `frames`, of `message_type` (a type or a union of tagged ones).

    Frames, their count and sum are bounded before anything is decoded; then the types of all fields, and the
    dtype, dimensions and length of all arrays, are checked against `message_type`. Raises MessageError.
    """
    _expect_bounded(frames, max_bytes)
    arrays = _Arrays(frames)
    try:
        message = msgspec.msgpack.decode(view(frames[0]), type=message_type, dec_hook=arrays.take)
    # UnicodeDecodeError is a ValueError; RecursionError comes from nesting without end.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = f"expected {_names(message_type)}, got a header that is none: {error}"
        raise MessageError(msg) from error
    arrays.expect_all_taken()
    return message


def num_bytes(frames: Sequence[InFrame]) -> int:
    """Sum of the frames' lengths."""
    return sum(_length(frame) for frame in frames)


class _Arrays:
    """Hands out the arrays of one message in the order of its header."""

    def __init__(self, frames: Sequence[InFrame]) -> None:
        self._frames = frames
        self._large_taken = 0
        self._packed: OutFrame | None = None
        self._packed_taken = 0

    def take(self, kind: Any, value: object) -> npt.NDArray[Any]:
        """The array that `value`, `[dtype, shape]`, announces and that the annotation `kind` expects."""
        dtype = _expected_dtype(kind)
        if not _is_column(value, dtype.str):
            msg = f"expected a one-dimensional array of {dtype.str}, got {repr(value)[:100]}"
            raise MessageError(msg)
        length: int = value[1][0]  # type: ignore[index]
        num_bytes = length * dtype.itemsize
        raw = self._take_small(num_bytes) if num_bytes < SMALL_BYTES else self._take_large(num_bytes)
        array = np.ndarray((length,), dtype, raw)
        # ZeroMQ cuts small frames out of one receive buffer, at any offset; large ones are aligned.
        if not array.flags.aligned:
            array = array.copy()
        array.flags.writeable = False
        return array

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

    def _take_small(self, num_bytes: int) -> OutFrame:
        if self._packed is None:
            self._packed = view(self._frames[-1]) if len(self._frames) > 1 else b""
        start = self._packed_taken
        self._packed_taken += num_bytes + -num_bytes % PADDING
        if self._packed_taken > len(self._packed):
            msg = f"expected at least {self._packed_taken} bytes of small arrays, got {len(self._packed)}"
            raise MessageError(msg)
        return self._packed[start : start + num_bytes]


def _raw_bytes(array: npt.NDArray[Any]) -> OutFrame:
    if array.dtype.str[0] == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.data.cast("B") if array.size else b""


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


def _is_column(value: object, dtype: str) -> bool:
    if type(value) is not list or len(value) != 2 or value[0] != dtype:
        return False
    shape = value[1]
    return type(shape) is list and len(shape) == 1 and type(shape[0]) is int and shape[0] >= 0


@lru_cache(maxsize=64)
def _expected_dtype(kind: Any) -> np.dtype[Any]:
    """`NDArray[np.int32]` is `ndarray[shape, dtype[int32]]`."""
    (scalar,) = get_args(get_args(kind)[1])
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype.newbyteorder("<")


def _names(message_type: Any) -> str:
    kinds = get_args(message_type) or (message_type,)
    return " or ".join(kind.__name__ for kind in kinds)
