"""The key-value cache, and attention over it.

A prefix that several running requests share lies once in a *trunk*; a row holds what its request has of its
own. Decoding reads a trunk once for all of its requests: attention over trunk and row are computed apart and
joined by their log-sum-exps,

    out = (exp(lse_trunk) out_trunk + exp(lse_row) out_row) / (exp(lse_trunk) + exp(lse_row)).

Keys and values lie here, and attention is computed, in the precision in which training computes it.

Letters: T tokens, M singles, W of them with a trunk, Q query heads, H key-value heads, D head width;
E entries of a batch with A queries each.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.tree_attention import compute_dtype
from trieline.learner.policy_server.kv_store import KVShape, KVStore
from trieline.learner.policy_server.step import AttentionPlan, Batch, Chunk, Step

# An entry with at most so many queries is attended to without the flash kernel.
FEW_QUERIES = 8


class KVCache:
    """The rows of the running requests and the trunks that they share."""

    def __init__(self, shape: KVShape, model_dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = compute_dtype(model_dtype)
        self.rows = KVStore(shape, self.dtype, model_dtype)
        self.trunks = KVStore(shape, self.dtype, model_dtype)

    @property
    def can_share(self) -> bool:
        """Whether there is an attention kernel that gives its log-sum-exp for this shape."""
        return self.shape.key_width == self.shape.value_width

    def attend(
        self, layer: int, step: Step, query_TQD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """Store the step's keys and values, then let each token look at all of its sequence: [T, Q, D]."""
        computed_in, query_TQD = query_TQD.dtype, query_TQD.to(self.dtype)
        self.rows.keys[layer][step.rows, :, step.places] = key_THD.to(self.dtype)
        self.rows.values[layer][step.rows, :, step.places] = value_THD.to(self.dtype)
        singles = step.num_singles
        parts = [self._attend_singles(layer, step, query_TQD[:singles], scale)] if singles else []
        begin = singles
        for chunk, mask in zip(step.chunks, self._plan(step, query_TQD).chunk_masks, strict=True):
            end = begin + chunk.stop - chunk.start
            parts.append(self._attend_chunk(layer, chunk, mask, query_TQD[begin:end], scale))
            begin = end
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.to(computed_in)

    def _plan(self, step: Step, query: Tensor) -> AttentionPlan:
        return step.plan(self.shape.heads, query.shape[1], self.dtype)

    def _attend_singles(self, layer: int, step: Step, query_MQD: Tensor, scale: float) -> Tensor:
        plan = self._plan(step, query_MQD)
        assert plan.own is not None
        if plan.trunks is None:
            return _attend_batch(self.rows, layer, plan.own, query_MQD, scale, with_lse=False)[0]
        own, own_lse = _attend_batch(self.rows, layer, plan.own, query_MQD, scale, with_lse=True)
        trunk, trunk_lse = _attend_batch(self.trunks, layer, plan.trunks, query_MQD, scale, with_lse=True)
        assert own_lse is not None
        assert trunk_lse is not None
        if plan.with_trunk is None:
            return _join(own, own_lse, trunk, trunk_lse)
        some = plan.with_trunk
        own[some] = _join(own[some], own_lse[some], trunk, trunk_lse)
        return own

    def _attend_chunk(
        self, layer: int, chunk: Chunk, mask: Tensor | None, query_TQD: Tensor, scale: float
    ) -> Tensor:
        own = chunk.stop - chunk.base
        keys, values = (store[layer, chunk.row, :, :own] for store in (self.rows.keys, self.rows.values))
        if chunk.base:
            trunk = (
                store[layer, chunk.trunk, :, : chunk.base] for store in (self.trunks.keys, self.trunks.values)
            )
            keys, values = (torch.cat(parts, 1) for parts in zip(trunk, (keys, values), strict=True))
        out_QTD = functional.scaled_dot_product_attention(
            query_TQD.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query_TQD.shape[1] != self.shape.heads,
        )[0]
        return out_QTD.transpose(0, 1)


def _attend_batch(
    store: KVStore, layer: int, batch: Batch, query_MQD: Tensor, scale: float, *, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention of the batch's singles over the store's rows: [W, Q, D] and log-sum-exps [W, Q, 1]."""
    queries, width = query_MQD.shape[1:]
    entries, _, places, length = batch.mask.shape
    query = query_MQD.reshape(-1, width)
    if batch.gather is not None:
        query = query.index_select(0, batch.gather)
    query_EHAD = query.view(entries, -1, places, width)
    keys = store.keys[layer, :entries, :, :length]
    values = store.values[layer, :entries, :, :length]
    if query_EHAD.shape[2] <= FEW_QUERIES:
        out_EHAD, lse_EHA = _attend_few(query_EHAD, keys, values, batch.mask, scale)
        return _scattered(out_EHAD, batch, queries), _scattered(lse_EHA[..., None], batch, queries)
    if not with_lse:
        out_EHAD = functional.scaled_dot_product_attention(
            query_EHAD, keys, values, attn_mask=batch.mask, scale=scale
        )
        return _scattered(out_EHAD, batch, queries), None
    # The kernel behind the function above, called by its own name for the sake of its second result.
    out_EHAD, lse_EHA = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_EHAD, keys, values, 0.0, False, attn_mask=batch.mask, scale=scale
    )
    return _scattered(out_EHAD, batch, queries), _scattered(lse_EHA[..., None], batch, queries)


def _attend_few(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The formula as it stands: the kernel takes twice as long to set up for a handful of queries."""
    scores = torch.matmul(query, key.transpose(-1, -2)).mul_(scale).add_(mask)
    lse = scores.logsumexp(-1, keepdim=True)
    return torch.matmul(scores.sub_(lse).exp_(), value), lse[..., 0]


def _scattered(x_EHAD: Tensor, batch: Batch, queries: int) -> Tensor:
    """From the layout of a batch back to [W, Q, D]."""
    # The flash kernel's results lie in the order E, A, H, so that this view of them costs nothing.
    flat = x_EHAD.transpose(1, 2).reshape(-1, x_EHAD.shape[3])
    return flat.index_select(0, batch.scatter).view(-1, queries, x_EHAD.shape[3])


def _join(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> Tensor:
    """Attention over the keys of both, from attention over the keys of each."""
    return torch.lerp(a, b, torch.sigmoid(b_lse - a_lse).to(a.dtype))
