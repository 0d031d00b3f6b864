"""Attention of one new token a sequence over the keys and values that it left in a cache, on the CPU.

Keys and values are read as they lie there, in the model's precision and each sequence's own length: widening
a cache of half precision for a matrix product takes longer than attending. Compiled by numba at the first
call for a precision, in some seconds, and kept for later processes.

Letters: M queries (one a sequence), Q query heads, H key-value heads, G = Q / H; D head width; R rows of a
cache with room for C tokens each. Query head q looks at key-value head q // G.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import extending, types
from torch import Tensor

from trieline.kernels.tree_attention import compute_dtype

# torch has the first of these loaded; threads of another kind would fight with torch's for the same cores.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
# Sums may be made in any order, as the vector instructions want it.
SUMS = {"reassoc", "contract", "nsz"}
BITS_PER_NAT = 1 / math.log(2)
# 2^x = sum of (x ln 2)^k / k!, which for |x| <= 1/2 is exact to float64 with these.
POWER_SERIES = tuple(math.log(2) ** k / math.factorial(k) for k in range(14))
SMALLEST_EXPONENT = -1022.0


def decode_attention(
    query_MQD: Tensor,
    prefix: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    seen_M4: np.ndarray[Any, np.dtype[np.int64]],
    scale: float,
) -> Tensor:
    """softmax(scale q K^T) V, where query m sees the keys of one row of `prefix`, then those of one of `own`.

    Args:
        query_MQD: in the cache's precision.
        prefix: keys [R, H, C, D] and values [R, H, C, W] in bfloat16, float32 or float64.
        own: the same from another cache, with R and C of its own.
        seen_M4: for each query its row of `prefix` and how many of the tokens there, then the same of `own`.
            It sees at least one token.
        scale: of the scores.

    Returns:
        [M, Q, W] like the query, from sums in `compute_dtype` of its precision.
    """
    count, queries, width = query_MQD.shape
    heads, out_width = own[1].shape[1], own[1].shape[3]
    query = query_MQD.to(compute_dtype(query_MQD.dtype), memory_format=torch.contiguous_format)
    out = query.new_empty(count, queries, out_width)
    grouped = (count, heads, queries // heads)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    _attend(
        query.view(*grouped, width).numpy(),
        *(_readable(tensor) for tensor in (*prefix, *own)),
        seen_M4,
        scale * BITS_PER_NAT,
        out.view(*grouped, out_width).numpy(),
    )
    return out.to(query_MQD.dtype)


def _readable(tensor: Tensor) -> np.ndarray[Any, Any]:
    """NumPy has no bfloat16: its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _number(stored):
    """What is stored, as a number: for the compiler alone."""
    raise NotImplementedError


@extending.overload(_number)
def _number_of(stored):
    if isinstance(stored, types.Integer):
        # bfloat16 is the upper half of float32.
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@numba.njit(parallel=True, cache=True)
def _attend(query, prefix_keys, prefix_values, own_keys, own_values, seen, scale, out):
    count, heads = query.shape[:2]
    for item in numba.prange(count * heads):
        one, head = item // heads, item % heads
        prefix_row, prefix_length, own_row, own_length = seen[one]
        weights = np.empty((query.shape[2], prefix_length + own_length), query.dtype)
        before, after = weights[:, :prefix_length], weights[:, prefix_length:]
        _score(query[one, head], prefix_keys[prefix_row, head], scale, before)
        _score(query[one, head], own_keys[own_row, head], scale, after)
        _softmax_of_base_2(weights)
        out[one, head] = 0
        _add_weighted(before, prefix_values[prefix_row, head], out[one, head])
        _add_weighted(after, own_values[own_row, head], out[one, head])


@numba.njit(fastmath=SUMS, cache=True)
def _score(query, keys, scale, scores):
    for place in range(scores.shape[1]):
        for group in range(query.shape[0]):
            total = query.dtype.type(0)
            for d in range(query.shape[1]):
                total += query[group, d] * _number(keys[place, d])
            scores[group, place] = scale * total


@numba.njit(fastmath=SUMS, cache=True)
def _softmax_of_base_2(scores):
    for group in range(scores.shape[0]):
        row = scores[group]
        largest = row.max()
        total = 0.0
        for place in range(len(row)):
            weight = _power_of_2(row[place] - largest)
            row[place] = weight
            total += weight
        row *= 1 / total


@numba.njit(fastmath=SUMS, cache=True)
def _power_of_2(exponent):
    """For exponents up to 0. Unlike the library's, a loop of these becomes vector instructions."""
    exponent = max(exponent, SMALLEST_EXPONENT)
    whole = np.floor(exponent + 0.5)
    rest = exponent - whole
    power = 0.0
    for k in range(len(POWER_SERIES)):
        power = power * rest + POWER_SERIES[len(POWER_SERIES) - 1 - k]
    return power * np.int64((np.int64(whole) + 1023) << 52).view(np.float64)


@numba.njit(fastmath=SUMS, cache=True)
def _add_weighted(weights, values, out):
    for place in range(weights.shape[1]):
        for group in range(out.shape[0]):
            weight = weights[group, place]
            for d in range(out.shape[1]):
                out[group, d] += weight * _number(values[place, d])
