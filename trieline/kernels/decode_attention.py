"""Attention of one new token a sequence over the keys and values that it left in a cache, on the CPU.

Keys and values are read as they lie there, in the model's precision and each sequence's own length: widening
a cache of half precision for a matrix product takes longer than attending.

Letters: M queries (one a sequence), Q query heads, H key-value heads, G = Q / H; D head width; R rows of a
cache with room for C tokens each. Query head q looks at key-value head q // G.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from trieline.kernels.compiled_cpu import (
    BITS_PER_NAT,
    SUMS,
    Memory,
    number,
    power_of_2,
    readable,
    share_threads,
)
from trieline.kernels.tree_plan import reproducible_dtype

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
    share_threads(NS_PER_PRODUCT * seen_M4[:, 1::2].sum() * queries * (width + out_width))
    _attend(
        query.view(*grouped, width).numpy(),
        key,
        value,
        *prefix,
        *own,
        layer,
        seen_M4,
        scale * BITS_PER_NAT,
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
        query_HGD = query_MQD[one].view(len(keys_HCD), -1, query_MQD.shape[2]).double()
        weights_HGC = (scale * query_HGD @ keys_HCD.double().mT).softmax(-1)
        outs.append((weights_HGC @ values_HCW.double()).flatten(0, 1))
    return torch.stack(outs).to(query_MQD.dtype)


@numba.njit(parallel=True, cache=True)
def _attend(query, key, value, prefix_keys, prefix_values, own_keys, own_values, layer, seen, scale, out):
    count, heads = query.shape[:2]
    for item in numba.prange(count * heads):
        one, head = item // heads, item % heads
        prefix_row, prefix_length, own_row, own_length = seen[one]
        own_keys[layer, own_row, head, own_length - 1] = key[one, head]
        own_values[layer, own_row, head, own_length - 1] = value[one, head]
        weights = np.empty((query.shape[2], prefix_length + own_length), query.dtype)
        before, after = weights[:, :prefix_length], weights[:, prefix_length:]
        _score(query[one, head], prefix_keys[layer, prefix_row, head], scale, before)
        _score(query[one, head], own_keys[layer, own_row, head], scale, after)
        _softmax_of_base_2(weights)
        out[one, head] = 0
        _add_weighted(before, prefix_values[layer, prefix_row, head], out[one, head])
        _add_weighted(after, own_values[layer, own_row, head], out[one, head])


@numba.njit(fastmath=SUMS, cache=True)
def _score(query, keys, scale, scores):
    for place in range(scores.shape[1]):
        for group in range(query.shape[0]):
            total = query.dtype.type(0)
            for d in range(query.shape[1]):
                total += query[group, d] * number(keys[place, d])
            scores[group, place] = scale * total


@numba.njit(fastmath=SUMS, cache=True)
def _softmax_of_base_2(scores):
    for group in range(scores.shape[0]):
        row = scores[group]
        largest = row.max()
        total = 0.0
        for place in range(len(row)):
            weight = power_of_2(row[place] - largest)
            row[place] = weight
            total += weight
        row *= 1 / total


@numba.njit(fastmath=SUMS, cache=True)
def _add_weighted(weights, values, out):
    for place in range(weights.shape[1]):
        for group in range(out.shape[0]):
            weight = weights[group, place]
            for d in range(out.shape[1]):
                out[group, d] += weight * number(values[place, d])
