"""Attention of one new token a sequence over keys and values that lie in slots, anywhere in a pool.

For query m of row r = rows[m], with c = lengths[m] tokens seen:

    out[m] = softmax(scale * q[m] K^T) V,  K = keys[slots[r, b:c]],  V = values[slots[r, b:c]]

with b = 0, or in layers with a sliding window b = max(0, c - window).

A prefix that many sequences share lies in the same slots for all of them. On a GPU a Triton kernel reads the
slots where they lie (`gpu/slot_attention_op`); elsewhere they are gathered first (`gathered_attention`).

Letters: M queries (one a sequence), Q query heads, H key-value heads, G = Q / H; D and W head widths of keys
and values; P slots of the pool, R rows of the table with room for C tokens each. Query head q looks at
key-value head q // G.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.gpu.availability import takes_triton


def slot_attention(
    query_MQD: Tensor,
    keys_PHD: Tensor,
    values_PHW: Tensor,
    slots_RC: Tensor,
    rows_M: Tensor,
    lengths_M: Tensor,
    *,
    scale: float,
    longest: int,
    window: int = 0,
) -> Tensor:
    """As in the module: [M, Q, W] like the query. The new tokens' keys and values are in their slots already.

    Args:
        query_MQD: in the precision of keys and values.
        keys_PHD, values_PHW: of one layer.
        slots_RC: int32, where each row's tokens lie.
        rows_M: int64, the row of each query.
        lengths_M: int64, at least 1 and at most `longest`.
        scale: of the scores.
        longest: of `lengths_M`; not looked at by the Triton kernel.
        window: how many of the newest tokens are seen, the query's own among them; 0: all.
    """
    if takes_triton(query_MQD.device, query_MQD.dtype):
        from trieline.kernels.gpu.slot_attention_op import slot_attention_on_gpu

        return slot_attention_on_gpu(
            query_MQD, keys_PHD, values_PHW, slots_RC, rows_M, lengths_M, scale=scale, window=window
        )
    return gathered_attention(
        query_MQD,
        keys_PHD,
        values_PHW,
        slots_RC,
        rows_M,
        lengths_M,
        scale=scale,
        longest=longest,
        window=window,
    )


def gathered_attention(
    query_MQD: Tensor,
    keys_PHD: Tensor,
    values_PHW: Tensor,
    slots_RC: Tensor,
    rows_M: Tensor,
    lengths_M: Tensor,
    *,
    scale: float,
    longest: int,
    window: int = 0,
) -> Tensor:
    """The same, from copies of the keys and values padded to the longest."""
    count, heads = len(query_MQD), keys_PHD.shape[1]
    # What lies behind a row's length is masked; it may be any slot, but it must be one.
    slots_ML = slots_RC[rows_M, :longest].long()
    places = torch.arange(longest, device=lengths_M.device)
    seen_ML = places < lengths_M[:, None]
    if window:
        seen_ML &= places >= lengths_M[:, None] - window
    keys, values = (
        functional.embedding(torch.where(seen_ML, slots_ML, 0), pool.flatten(1))
        .view(count, longest, heads, -1)
        .transpose(1, 2)
        for pool in (keys_PHD, values_PHW)
    )
    out_MHGW = functional.scaled_dot_product_attention(
        query_MQD.reshape(count, heads, -1, query_MQD.shape[2]),
        keys,
        values,
        attn_mask=seen_ML[:, None, None],
        scale=scale,
    )
    return out_MHGW.flatten(1, 2)


def reference_slot_attention(
    query_MQD: Tensor,
    keys_PHD: Tensor,
    values_PHW: Tensor,
    slots_RC: Tensor,
    rows_M: Tensor,
    lengths_M: Tensor,
    *,
    scale: float,
    window: int = 0,
) -> Tensor:
    """The same from the formula in float64, query by query."""
    outs = []
    for query_QD, row, length in zip(query_MQD, rows_M.tolist(), lengths_M.tolist(), strict=True):
        first = max(0, length - window) if window else 0
        slots = slots_RC[row, first:length].long()
        keys_HCD, values_HCW = (pool[slots].transpose(0, 1).double() for pool in (keys_PHD, values_PHW))
        query_HGD = query_QD.view(len(keys_HCD), -1, query_QD.shape[-1]).double()
        weights_HGC = (scale * query_HGD @ keys_HCD.mT).softmax(-1)
        outs.append((weights_HGC @ values_HCW).flatten(0, 1))
    return torch.stack(outs).to(query_MQD.dtype)
