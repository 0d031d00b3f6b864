"""Keys and values of the running requests, one row each, and the plan of one forward over them.

Letters: N layers, R rows, H key-value heads, C capacity of a row in tokens, D head width, T tokens of a step.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """What one token leaves behind in every layer."""

    layers: int
    heads: int
    key_width: int
    value_width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A run of one row's tokens, positions `start` to `stop`, that is read in one go."""

    row: int
    start: int
    stop: int


@dataclass(kw_only=True, slots=True)
class Step:
    """One forward: first one token for each of `single_rows`, then the tokens of the chunks, unpadded."""

    token_ids: Tensor
    """int64 [T]"""
    positions: Tensor
    """int64 [T]"""
    rows: Tensor
    """int64 [T] the row each token belongs to."""
    single_rows: Tensor
    """int64 [M] rows that get one token each, rising."""
    chunks: tuple[Chunk, ...]
    sample_at: Tensor
    """int64 [S] tokens of the step after which the next token is sampled."""
    _single_mask: Tensor | None = field(default=None, init=False)
    _chunk_masks: list[Tensor | None] = field(default_factory=list, init=False)

    def prepare_masks(self, dtype: torch.dtype) -> None:
        """Build once what the attention of every layer reads."""
        self._chunk_masks = [_chunk_mask(chunk) for chunk in self.chunks]
        singles = len(self.single_rows)
        if not singles:
            return
        # Rows in between that have no token in this step look at their first key; their result is dropped.
        lengths = torch.ones(self.span, dtype=torch.int64)
        lengths[self.single_rows] = self.positions[:singles] + 1
        hidden = torch.arange(self.single_length) >= lengths[:, None]
        self._single_mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))

    @property
    def span(self) -> int:
        """Rows from 0 up to the last of `single_rows`: computed as one batch."""
        return int(self.single_rows[-1]) + 1

    @property
    def single_length(self) -> int:
        """Keys that the longest of `single_rows` looks at."""
        return int(self.positions[: len(self.single_rows)].max()) + 1

    @property
    def single_mask(self) -> Tensor:
        """[span, single_length] 0 where a key is seen, -inf where not."""
        assert self._single_mask is not None
        return self._single_mask

    @property
    def chunk_masks(self) -> list[Tensor | None]:
        """Per chunk bool [stop - start, stop], or None where plain causal attention is right."""
        return self._chunk_masks


def _chunk_mask(chunk: Chunk) -> Tensor | None:
    if chunk.start == 0:
        return None
    return torch.ones(chunk.stop - chunk.start, chunk.stop, dtype=torch.bool).tril_(chunk.start)


class KVRows:
    """The cache of all rows. Memory is only touched, and so only taken, where tokens have been written."""

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

    def read(self, row: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A copy of a run of tokens: keys and values, [N, H, stop - start, D] each."""
        return self.keys[:, row, :, start:stop].clone(), self.values[:, row, :, start:stop].clone()

    def write(self, row: int, start: int, keys_NHTD: Tensor, values_NHTD: Tensor) -> None:
        """Put a run of tokens, as `read` gives it, at `start`."""
        stop = start + keys_NHTD.shape[2]
        self.keys[:, row, :, start:stop] = keys_NHTD
        self.values[:, row, :, start:stop] = values_NHTD

    def attend(
        self, layer: int, step: Step, query_TQD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """Store the step's keys and values, then let each token look at all of its row so far: [T, Q, D].

        Q query heads, of which Q / H in a row share a key-value head.
        """
        keys_RHCD, values_RHCD = self.keys[layer], self.values[layer]
        keys_RHCD[step.rows, :, step.positions] = key_THD.to(self.dtype)
        values_RHCD[step.rows, :, step.positions] = value_THD.to(self.dtype)
        computed_in, query_TQD = query_TQD.dtype, query_TQD.to(self.dtype)
        out = query_TQD.new_empty(*query_TQD.shape[:2], self.shape.value_width)
        singles = len(step.single_rows)
        if singles:
            out[:singles] = _attend_singles(step, query_TQD[:singles], keys_RHCD, values_RHCD, scale)
        begin = singles
        for chunk, mask in zip(step.chunks, step.chunk_masks, strict=True):
            end = begin + chunk.stop - chunk.start
            out[begin:end] = functional.scaled_dot_product_attention(
                query_TQD[begin:end].transpose(0, 1)[None],
                keys_RHCD[chunk.row, None, :, : chunk.stop],
                values_RHCD[chunk.row, None, :, : chunk.stop],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=query_TQD.shape[1] != key_THD.shape[1],
            )[0].transpose(0, 1)
            begin = end
        return out.to(computed_in)

    def _allocate(self, *, rows: int, capacity: int) -> None:
        shape = (self.shape.layers, rows, self.shape.heads, capacity)
        self.keys = _zeros((*shape, self.shape.key_width), self.dtype)
        self.values = _zeros((*shape, self.shape.value_width), self.dtype)


def _attend_singles(
    step: Step, query_MQD: Tensor, keys_RHCD: Tensor, values_RHCD: Tensor, scale: float
) -> Tensor:
    """One query token a row, all rows in one call; the queries of a key-value head stand in as its tokens."""
    span, length, heads = step.span, step.single_length, keys_RHCD.shape[1]
    singles, query_heads, width = query_MQD.shape
    dense = singles == span
    query_RQD = query_MQD
    if not dense:
        query_RQD = query_MQD.new_zeros(span, query_heads, width)
        query_RQD[step.single_rows] = query_MQD
    group = query_heads // heads
    out_RHGD = functional.scaled_dot_product_attention(
        query_RQD.reshape(span, heads, group, width),
        keys_RHCD[:span, :, :length],
        values_RHCD[:span, :, :length],
        attn_mask=step.single_mask[:, None, None, :].expand(span, 1, group, length),
        scale=scale,
    )
    out_RQD = out_RHGD.reshape(span, query_heads, values_RHCD.shape[3])
    return out_RQD if dense else out_RQD[step.single_rows]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of which the pages are taken only when written. Never garbage: 0 x NaN behind a mask is NaN."""
    count = int(np.prod(shape)) * dtype.itemsize
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(shape)
