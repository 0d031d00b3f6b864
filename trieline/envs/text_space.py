"""The space of Unicode texts, and what Gymnasium's vector environments need to pass them on unharmed.

Gymnasium's own `Text` knows a fixed alphabet, samples up to its full length, and its batches in shared
memory are read once, at creation. Here shared memory starts with the size of its slots, which a writer
with a space of another length could not know; a slot holds the byte length of one text and its UTF-8 form,
lone surrogates kept. Sizes and lengths take 4 bytes, little endian. The handlers are registered by this
module, so that every process which can build an environment with a `Text` space has them.
"""

import copy
import multiprocessing
import string
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Space
from gymnasium.spaces import Tuple as TupleSpace
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

LENGTH_BYTES = 4
MAX_UTF8_BYTES = 4
"""Of one code point; a lone surrogate takes three."""
ERRORS = "surrogatepass"

SAMPLE_LENGTH = 16
"""Samples stay short: checkers and vector environments draw many."""
SAMPLE_ALPHABET = string.ascii_letters + string.digits + " .,:;!?-+*/=()\n\täßñλЖ日本語🙂"


class Text(Space[str]):
    """Every Unicode text of at most `max_length` code points, the empty one included."""

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 1:
            msg = f"expected a max_length of at least 1, got {max_length}"
            raise ValueError(msg)
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A short text. A mask or probability over all of Unicode is refused with ValueError."""
        if mask is not None or probability is not None:
            msg = "a Text space takes neither a mask nor a probability"
            raise ValueError(msg)
        length = int(self.np_random.integers(0, min(SAMPLE_LENGTH, self.max_length) + 1))
        picks = self.np_random.integers(0, len(SAMPLE_ALPHABET), size=length)
        return "".join(SAMPLE_ALPHABET[i] for i in picks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash((Text, self.max_length))

    def __repr__(self) -> str:
        return f"Text({self.max_length})"


class SharedTexts(Sequence[str]):
    """A batch of texts that other processes write: each access decodes what stands there now.

    `copy.deepcopy`, with which `AsyncVectorEnv` hands a batch out, makes a plain tuple of it.
    """

    def __init__(self, memory: Any, count: int) -> None:
        self._slots = _bytes(memory)[LENGTH_BYTES:].reshape(count, -1)

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        slot = self._slots[index]
        length = int.from_bytes(slot[:LENGTH_BYTES].tobytes(), "little")
        text: bytes = slot[LENGTH_BYTES : LENGTH_BYTES + length].tobytes()
        return text.decode("utf-8", ERRORS)

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # its contents change

    def __repr__(self) -> str:
        return f"SharedTexts({list(self)})"


def _bytes(memory: Any) -> npt.NDArray[np.uint8]:
    """All bytes of a `multiprocessing.Array`, shared."""
    return np.frombuffer(memory.get_obj(), dtype=np.uint8)


def _put_number(bytes_: npt.NDArray[np.uint8], start: int, number: int) -> None:
    end = start + LENGTH_BYTES
    bytes_[start:end] = np.frombuffer(number.to_bytes(LENGTH_BYTES, "little"), dtype=np.uint8)


@create_shared_memory.register(Text)
def _create(space: Text, n: int = 1, ctx: Any = multiprocessing) -> Any:
    slot_bytes = LENGTH_BYTES + MAX_UTF8_BYTES * space.max_length
    memory = ctx.Array("B", LENGTH_BYTES + n * slot_bytes)
    _put_number(_bytes(memory), 0, slot_bytes)
    return memory


@read_from_shared_memory.register(Text)
def _read(space: Text, shared_memory: Any, n: int = 1) -> SharedTexts:
    return SharedTexts(shared_memory, n)


@write_to_shared_memory.register(Text)
def _write(space: Text, index: int, value: str, shared_memory: Any) -> None:
    bytes_ = _bytes(shared_memory)
    slot_bytes = int.from_bytes(bytes_[:LENGTH_BYTES].tobytes(), "little")
    room = (slot_bytes - LENGTH_BYTES) // MAX_UTF8_BYTES
    if len(value) > min(space.max_length, room):
        # Slots are those of the first environment's space.
        msg = f"expected a text of at most {min(space.max_length, room)} characters, got {len(value)}"
        raise ValueError(msg)
    data = value.encode("utf-8", ERRORS)
    start = LENGTH_BYTES + index * slot_bytes
    _put_number(bytes_, start, len(data))
    text = start + LENGTH_BYTES
    bytes_[text : text + len(data)] = np.frombuffer(data, dtype=np.uint8)


@is_space_dtype_shape_equiv.register(Text)
def _is_equivalent(space: Text, other: Space[Any]) -> bool:
    """Texts of any length go into one batch (`observation_mode="different"`)."""
    return isinstance(other, Text)


@create_empty_array.register(Text)
def _create_empty(space: Text, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return ("",) * n


# Gymnasium annotates the list of spaces and dispatches on the first of them.
@batch_differing_spaces.register(Text)
def _batch_differing(  # type: ignore[misc]
    spaces: Sequence[Text],
) -> "TupleSpace[Any]":
    return TupleSpace([copy.deepcopy(space) for space in spaces])
