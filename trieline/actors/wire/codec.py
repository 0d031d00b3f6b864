"""Messages to frames and back: one msgpack header, then the raw bytes of each array.

In the header an array is `[dtype, shape]`; its bytes are the next frame, in the order in which the encoder
met the arrays. Nothing is copied: encoded frames are views of the message's arrays (which must not change
until they are sent), decoded arrays are read-only views of the frames. Nothing is ever unpickled: whatever
the bytes are, `decode` returns a message of the type that was asked for or raises `MessageError`.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from trieline.actors.wire.errors import MessageError

OutFrame: TypeAlias = bytes | memoryview
InFrame: TypeAlias = bytes | memoryview | zmq.Frame

# A tree has ten arrays, and no other message has more.
MAX_FRAMES = 24
# Headers hold names, causes and short notes: 4 MiB is a tree of more than 400,000 nodes. The bound keeps
# the Python objects that a hostile header unfolds to at a few hundred megabytes.
MAX_HEADER_BYTES = 4 * 1024 * 1024


def encode(message: object) -> list[OutFrame]:
    """The header and one frame for each array of `message`, a Struct or dataclass."""
    frames: list[OutFrame] = [b""]

    def take_array(value: object) -> object:
        if not isinstance(value, np.ndarray):
            msg = f"expected arrays and plain values in {type(message).__name__}, got {type(value).__name__}"
            raise MessageError(msg)
        if value.dtype.str[0] == ">":
            value = value.astype(value.dtype.newbyteorder("<"))
        if not value.flags.c_contiguous:
            value = np.ascontiguousarray(value)
        frames.append(value.data.cast("B") if value.size else b"")
        return value.dtype.str, value.shape

    frames[0] = msgspec.msgpack.encode(message, enc_hook=take_array)
    return frames


def decode(frames: Sequence[InFrame], message_type: Any, *, max_bytes: int) -> Any:
    """The message in `frames`, of `message_type` (a type or a union of tagged ones).

    Frames, their count and sum are bounded before anything is decoded; then the types of all fields, and the
    dtype, dimensions and length of all arrays, are checked against `message_type`. Raises MessageError.
    """
    _expect_bounded(frames, max_bytes)
    arrays = iter(frames[1:])
    try:
        message = msgspec.msgpack.decode(
            _view(frames[0]),
            type=message_type,
            dec_hook=lambda kind, value: _read_array(kind, value, arrays),
        )
    # UnicodeDecodeError is a ValueError; RecursionError comes from nesting without end.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = f"expected {_names(message_type)}, got a header that is none: {error}"
        raise MessageError(msg) from error
    if (unread := sum(1 for _ in arrays)) > 0:
        msg = f"expected {len(frames) - unread} frames of this {type(message).__name__}, got {len(frames)}"
        raise MessageError(msg)
    return message


def num_bytes(frames: Sequence[InFrame]) -> int:
    """Sum of the frames' lengths."""
    return sum(_length(frame) for frame in frames)


def _view(frame: InFrame) -> OutFrame:
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


def _read_array(kind: Any, value: object, arrays: Iterator[InFrame]) -> npt.NDArray[Any]:
    """The next frame as the array that `value`, `[dtype, shape]`, announces and that `kind` expects."""
    dtype = _expected_dtype(kind)
    if not _is_column(value, dtype.str):
        msg = f"expected a one-dimensional array of {dtype.str}, got {repr(value)[:100]}"
        raise MessageError(msg)
    length: int = value[1][0]  # type: ignore[index]
    frame = next(arrays, None)
    if frame is None:
        msg = "expected one frame for each array of the header, got fewer"
        raise MessageError(msg)
    if _length(frame) != length * dtype.itemsize:
        msg = f"expected {length} x {dtype.itemsize} bytes of {dtype.str}, got {_length(frame)} bytes"
        raise MessageError(msg)
    array = np.ndarray((length,), dtype, _view(frame))
    # ZeroMQ cuts small frames out of one receive buffer, at any offset; large ones are aligned.
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


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
