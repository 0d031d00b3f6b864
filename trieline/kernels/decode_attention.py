"""Attention of one new token a sequence over the keys and values that it left in a cache, on the CPU.

Keys and values are read as they lie there, in the model's precision and each sequence's own length: widening
a cache of half precision for a matrix product takes longer than attending.

Letters: M queries (one a sequence), Q query heads, H key-value heads, G = Q / H; D head width; R rows of a
cache with room for C tokens each. Query head q looks at key-value head q // G.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trieline.kernels.cpu.compiled import BITS_PER_NAT, Memory, readable, share_threads
from trieline.kernels.cpu.decode_attention_kernel import attend_kernel
from trieline.kernels.cpu.precision import reproducible_dtype

# Of one number of the query or the weights with one of the cache, on one thread.
NS_PER_PRODUCT = 0.15


def decode_attention(
    query_MQD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    prefix: tuple[Memory, Memory],
    own: tuple[Memory, Memory],
    layer: int,
    seen_M4: np.ndarray[Any, np.dtype[np.int64]],
    scale: float,
    window: int = 0,
) -> Tensor:
    """softmax(scale q K^T) V, where query m sees the keys of one row of `prefix`, then those of one of `own`.

    Args:
        query_MQD: in the cache's precision, as are
        key_MHD, value_MHD: of the new tokens; they become the last tokens seen, in `own`.
        prefix: keys [N, R, H, C, D] and values [N, R, H, C, W] of a cache, as `readable` gives them.
        own: the same of another cache, with R and C of its own.
        layer: out of N.
        seen_M4: for each query its row of `prefix` and how many of the tokens there, then the same of `own`,
            at least 1. No two queries have the same row of `own`.
        scale: of the scores.
        window: of all tokens seen, look only at so many of the last. 0: at all.

    Returns:
        [M, Q, W] like the query, from sums in `reproducible_dtype` of its precision.

    Raises:
        TypeError: a precision that is none of those of `readable`, or not the cache's.
    """
    count, queries, width = query_MQD.shape
    heads, out_width = value_MHD.shape[1:]
    # Of one layout always: for another the kernel would be compiled anew, and read number by number.
    key, value = readable(key_MHD.contiguous()), readable(value_MHD.contiguous())
    if not key.dtype == value.dtype == own[0].dtype == prefix[0].dtype:
        msg = f"expected keys and values in the cache's {own[0].dtype}, got {key.dtype} and {value.dtype}"
        raise TypeError(msg)
    query = query_MQD.to(reproducible_dtype(query_MQD.dtype)).contiguous()
    out = query.new_empty(count, queries, out_width)
    grouped = (count, heads, queries // heads)
    lengths = seen_M4[:, 1::2].sum(1)
    seen_tokens = np.minimum(lengths, window).sum() if window else lengths.sum()
    share_threads(NS_PER_PRODUCT * seen_tokens * queries * (width + out_width))
    attend_kernel(
        query.view(*grouped, width).numpy(),
        key,
        value,
        *prefix,
        *own,
        layer,
        seen_M4,
        scale * BITS_PER_NAT,
        window,
        out.view(*grouped, out_width).numpy(),
    )
    return out.to(query_MQD.dtype)


def reference_decode_attention(
    query_MQD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    prefix: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    layer: int,
    seen_M4: np.ndarray[Any, np.dtype[np.int64]],
    scale: float,
    window: int = 0,
) -> Tensor:
    """The same from the formula, query by query; the caches are tensors."""
    outs = []
    for one, (prefix_row, prefix_length, own_row, own_length) in enumerate(seen_M4.tolist()):
        own[0][layer, own_row, :, own_length - 1] = key_MHD[one]
        own[1][layer, own_row, :, own_length - 1] = value_MHD[one]
        keys_HCD, values_HCW = (
            torch.cat(
                (first[layer, prefix_row, :, :prefix_length], second[layer, own_row, :, :own_length]), 1
            )
            for first, second in zip(prefix, own, strict=True)
        )
        keys_HCD, values_HCW = (seen[:, -window:] for seen in (keys_HCD, values_HCW))
        query_HGD = query_MQD[one].view(len(keys_HCD), -1, query_MQD.shape[2]).double()
        weights_HGC = (scale * query_HGD @ keys_HCD.double().mT).softmax(-1)
        outs.append((weights_HGC @ values_HCW.double()).flatten(0, 1))
    return torch.stack(outs).to(query_MQD.dtype)
