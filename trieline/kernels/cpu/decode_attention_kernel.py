"""`decode_attention`, compiled by numba: a query head group of a sequence at a time, on a thread each.

Queries are [M, H, G, D] and results [M, H, G, W]; the other arguments, and the letters, as there. The scale
is that of a softmax of base 2.
"""

import numba
import numpy as np

from trieline.kernels.cpu.compiled import SUMS, compiled, number, power_of_2


@compiled(parallel=True)
def attend_kernel(
    query, key, value, prefix_keys, prefix_values, own_keys, own_values, layer, seen, scale, window, out
):
    """Attend, and store the new keys and values."""
    count, heads = query.shape[:2]
    for item in numba.prange(count * heads):
        one, head = item // heads, item % heads
        prefix_row, prefix_length, own_row, own_length = seen[one]
        own_keys[layer, own_row, head, own_length - 1] = key[one, head]
        own_values[layer, own_row, head, own_length - 1] = value[one, head]
        # With a window, what lies before the last tokens is not looked at.
        hidden = max(prefix_length + own_length - window, 0) if window else 0
        first, own_first = min(hidden, prefix_length), max(hidden - prefix_length, 0)
        weights = np.empty((query.shape[2], prefix_length + own_length - hidden), query.dtype)
        before, after = weights[:, : prefix_length - first], weights[:, prefix_length - first :]
        _score(query[one, head], prefix_keys[layer, prefix_row, head, first:], scale, before)
        _score(query[one, head], own_keys[layer, own_row, head, own_first:], scale, after)
        _softmax_of_base_2(weights)
        out[one, head] = 0
        _add_weighted(before, prefix_values[layer, prefix_row, head, first:], out[one, head])
        _add_weighted(after, own_values[layer, own_row, head, own_first:], out[one, head])


@compiled(fastmath=SUMS)
def _score(query, keys, scale, scores):
    for place in range(scores.shape[1]):
        for group in range(query.shape[0]):
            total = query.dtype.type(0)
            for d in range(query.shape[1]):
                total += query[group, d] * number(keys[place, d])
            scores[group, place] = scale * total


@compiled(fastmath=SUMS)
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


@compiled(fastmath=SUMS)
def _add_weighted(weights, values, out):
    for place in range(weights.shape[1]):
        for group in range(out.shape[0]):
            weight = weights[group, place]
            for d in range(out.shape[1]):
                out[group, d] += weight * number(values[place, d])
