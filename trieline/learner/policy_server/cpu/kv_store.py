"""Keys and values of many token runs side by side, one row each.

Letters: N layers, R rows, H key-value heads, C capacity of a row in tokens, T tokens, D head width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trieline.kernels.cpu.compiled import readable
from trieline.learner.policy_server.decoders.kv_shape import KVShape

SMALLEST_CAPACITY = 64
# Bytes; vectors that begin elsewhere are read in two.
CACHE_LINE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class KVRun:
    """Keys and values of consecutive tokens, [N, H, n, D] each."""

    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]

    def view(self, start: int, stop: int) -> "KVRun":
        """A part, in the same memory."""
        return KVRun(keys=self.keys[:, :, start:stop], values=self.values[:, :, start:stop])

    def copy(self, start: int, stop: int) -> "KVRun":
        """A part, in memory of its own: a view would keep the whole alive."""
        return KVRun(keys=self.keys[:, :, start:stop].clone(), values=self.values[:, :, start:stop].clone())

    def free(self) -> None:
        """Nothing to do: the memory goes with the tensors."""


class KVStore:
    """The rows. Memory is only touched, and so only taken, where tokens have been written."""

    def __init__(self, shape: KVShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self._allocate(rows=0, capacity=0)

    @property
    def num_rows(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys.shape[3]

    def resize(self, *, rows: int, capacity: int, keep: list[tuple[int, int]]) -> None:
        """Reallocate; row i then holds what row `keep[i][0]` held, of which `keep[i][1]` tokens count."""
        old_keys, old_values = self.keys, self.values
        self._allocate(rows=rows, capacity=capacity)
        for new, (old, length) in enumerate(keep):
            self.keys[:, new, :, :length] = old_keys[:, old, :, :length]
            self.values[:, new, :, :length] = old_values[:, old, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def read(self, row: int, start: int, stop: int) -> KVRun:
        """A copy of a run of tokens."""
        keys, values = (store[:, row, :, start:stop] for store in (self.keys, self.values))
        return KVRun(keys=keys.clone(), values=values.clone())

    def write(self, row: int, start: int, run: KVRun) -> None:
        """Put a run of tokens at `start`."""
        stop = start + len(run)
        self.keys[:, row, :, start:stop] = run.keys
        self.values[:, row, :, start:stop] = run.values

    def _allocate(self, *, rows: int, capacity: int) -> None:
        shape = (self.shape.layers, rows, self.shape.heads, capacity)
        self.keys = _zeros((*shape, self.shape.key_width), self.dtype)
        self.values = _zeros((*shape, self.shape.value_width), self.dtype)
        self.memory = readable(self.keys), readable(self.values)


def capacity_for(tokens: int, limit: int) -> int:
    """The capacity of a row that `tokens` tokens get: a power of two, so that it seldom has to grow."""
    return min(max(SMALLEST_CAPACITY, 1 << (tokens - 1).bit_length()), limit)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of which the pages are taken only when written. Never garbage: 0 x NaN behind a mask is NaN."""
    count = int(np.prod(shape)) * dtype.itemsize
    if not count:
        return torch.zeros(shape, dtype=dtype)
    memory = np.zeros(count + CACHE_LINE, dtype=np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return torch.from_numpy(memory[begin : begin + count]).view(dtype).view(shape)
