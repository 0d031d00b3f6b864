"""The key-value cache, and attention over it.

A prefix that several running requests share lies once in a *trunk*; a row holds what its request has of its
own. Attention is computed in the precision in which training computes it.

Letters: T tokens, M singles, Q query heads, H key-value heads, D head width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.cpu.precision import reproducible_dtype
from trieline.kernels.decode_attention import decode_attention
from trieline.learner.policy_server.cpu.kv_store import KVStore
from trieline.learner.policy_server.cpu.layout import Chunk, Layout
from trieline.learner.policy_server.decoders.kv_shape import KVShape


class KVCache:
    """The rows of the running requests and the trunks that they share."""

    def __init__(self, shape: KVShape, dtype: torch.dtype) -> None:
        """`dtype`: what the model computes keys and values in."""
        self.shape = shape
        self.rows = KVStore(shape, dtype)
        self.trunks = KVStore(shape, dtype)

    def attend(
        self, layout: Layout, layer: int, query_TQD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """Store the step's keys and values, then let each token look at its sequence: [T, Q, D].

        At all of it, or at as much as the window of the layer shows.
        """
        window = self.shape.window(layer)
        count = len(layout.singles_M4)
        parts = []
        if count:
            parts.append(
                decode_attention(
                    query_TQD[:count],
                    key_THD[:count],
                    value_THD[:count],
                    self.trunks.memory,
                    self.rows.memory,
                    layer,
                    layout.singles_M4,
                    scale,
                    window,
                )
            )
        begin = count
        for chunk in layout.chunks:
            tokens = slice(begin, begin := begin + chunk.stop - chunk.start)
            parts.append(
                self._attend_chunk(layer, chunk, query_TQD[tokens], key_THD[tokens], value_THD[tokens], scale)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_chunk(
        self, layer: int, chunk: Chunk, query_TQD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        own = chunk.stop - chunk.base
        keys, values = (store[layer, chunk.row, :, :own] for store in (self.rows.keys, self.rows.values))
        keys[:, chunk.start - chunk.base :] = key_THD.transpose(0, 1)
        values[:, chunk.start - chunk.base :] = value_THD.transpose(0, 1)
        if chunk.base:
            trunk = (
                store[layer, chunk.trunk, :, : chunk.base] for store in (self.trunks.keys, self.trunks.values)
            )
            keys, values = (torch.cat(parts, 1) for parts in zip(trunk, (keys, values), strict=True))
        mask = chunk.mask(self.shape.window(layer))
        computed_in = reproducible_dtype(query_TQD.dtype)
        out_QTD = functional.scaled_dot_product_attention(
            query_TQD.transpose(0, 1)[None].to(computed_in),
            keys[None].to(computed_in),
            values[None].to(computed_in),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query_TQD.shape[1] != self.shape.heads,
        )[0]
        return out_QTD.transpose(0, 1).to(query_TQD.dtype)
