"""Keys and values in slots on one device, and attention over them.

Letters: N layers, P slots, T tokens of a step, M singles, Q query heads, H key-value heads, G = Q / H;
D and W head widths of keys and values; S tokens that a chunk sees.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.slot_attention import slot_attention
from trieline.learner.policy_server.decoders.kv_shape import KVShape


@dataclass(frozen=True, kw_only=True)
class SlotChunk:
    """A run of one row's tokens that is read in one go: the last `count` of those that it sees."""

    slots: Tensor
    """int64 [S] where these lie."""
    count: int
    seen: Tensor | None
    """bool [count, S] which of them a token sees; None: it is plain causal."""

    @functools.cached_property
    def _by_window(self) -> "dict[int, SlotChunk]":
        return {}

    def within(self, window: int) -> "SlotChunk":
        """The chunk in a layer where a token sees the newest `window` tokens of its row; 0: all.

        All layers of a step that ask get the same one.
        """
        if not window or len(self.slots) <= window:
            return self
        if window not in self._by_window:
            self._by_window[window] = self._within(window)
        return self._by_window[window]

    def _within(self, window: int) -> "SlotChunk":
        whole = len(self.slots)
        start = whole - self.count
        first = max(0, start - window + 1)
        seen = torch.ones(self.count, whole - first, dtype=torch.bool, device=self.slots.device)
        seen.tril_(start - first).triu_(start - first - window + 1)
        return SlotChunk(slots=self.slots[first:], count=self.count, seen=seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotLayout:
    """First one token for each of M rows (the singles), then the tokens of the chunks; T in all."""

    slots: Tensor
    """int64 [T] where the step's own keys and values go."""
    rows: Tensor
    """int64 [M] of the table."""
    lengths: Tensor
    """int64 [M] tokens that each single sees, itself included."""
    longest: int
    """Of `lengths`, or anything above."""
    chunks: tuple[SlotChunk, ...] = ()


class SlotCache:
    """Keys [N, P, H, D] and values [N, P, H, W]. They never move: CUDA graphs know where they are."""

    def __init__(self, shape: KVShape, num_slots: int, table_RC: Tensor, dtype: torch.dtype) -> None:
        per_layer, device = (num_slots, shape.heads), table_RC.device
        self._shape = shape
        # Zeros: what is masked is multiplied by 0 all the same, and 0 x NaN is NaN.
        self.keys = torch.zeros(shape.layers, *per_layer, shape.key_width, dtype=dtype, device=device)
        self.values = torch.zeros(shape.layers, *per_layer, shape.value_width, dtype=dtype, device=device)
        self._table_RC = table_RC

    def attend(
        self,
        layout: SlotLayout,
        layer: int,
        query_TQD: Tensor,
        key_THD: Tensor,
        value_THW: Tensor,
        scale: float,
    ) -> Tensor:
        """Store the step's keys and values, then let each token look at all of its sequence: [T, Q, W]."""
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(0, layout.slots, key_THD)
        values.index_copy_(0, layout.slots, value_THW)
        count, window = len(layout.rows), self._shape.window(layer)
        parts = []
        if count:
            parts.append(
                slot_attention(
                    query_TQD[:count],
                    keys,
                    values,
                    self._table_RC,
                    layout.rows,
                    layout.lengths,
                    scale=scale,
                    longest=layout.longest,
                    window=window,
                )
            )
        begin = count
        for whole in layout.chunks:
            chunk = whole.within(window)
            query = query_TQD[begin : begin + chunk.count]
            parts.append(_attend_chunk(chunk, query, keys[chunk.slots], values[chunk.slots], scale))
            begin += chunk.count
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_chunk(
    chunk: SlotChunk, query_TQD: Tensor, keys_SHD: Tensor, values_SHW: Tensor, scale: float
) -> Tensor:
    tokens, queries, width = query_TQD.shape
    heads = keys_SHD.shape[1]
    keys, values = keys_SHD.transpose(0, 1)[None], values_SHW.transpose(0, 1)[None]
    if chunk.seen is None:
        group = queries // heads
        keys, values = (one.repeat_interleave(group, 1) for one in (keys, values))
        out_QTW = functional.scaled_dot_product_attention(
            query_TQD.transpose(0, 1)[None], keys, values, is_causal=True, scale=scale
        )[0]
        return out_QTW.transpose(0, 1)
    # The heads of a group as further queries of one head: no key is copied beside another.
    folded_HGT = query_TQD.view(tokens, heads, -1, width).permute(1, 2, 0, 3).flatten(1, 2)
    seen = chunk.seen.repeat(queries // heads, 1)
    out_HGT = functional.scaled_dot_product_attention(
        folded_HGT[None], keys, values, attn_mask=seen, scale=scale
    )[0]
    return out_HGT.view(heads, -1, tokens, values.shape[-1]).permute(2, 0, 1, 3).flatten(1, 2)
