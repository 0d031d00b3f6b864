"""Tokens drawn from rows of logits, with log-probability and entropy, on the CPU.

For row r, with p = softmax(logits / temperature): the drawn token is the first at which the running sum of p
passes `uniforms[r]`, its log-probability is log p[token], the entropy -sum(p log p). All sums are made in
float64.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from torch import Tensor

from trieline.kernels.compiled_cpu import (
    BITS_PER_NAT,
    SMALLEST_EXPONENT,
    SUMS,
    number,
    power_of_2,
    readable,
    share_threads,
)

BROKEN = -1
"""In the place of a token id: a row whose largest logit is not finite, or that holds NaN."""

# On one thread.
NS_PER_LOGIT = 1.5

Floats = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """One token for each of R rows."""

    token_ids: npt.NDArray[np.int64]
    logprobs: Floats
    """[R] nats"""
    entropies: Floats
    """[R] nats"""


def draw_tokens(
    logits_RV: Tensor, temperatures: Floats, uniforms: Floats, greedy: npt.NDArray[np.bool_]
) -> Drawn:
    """Draw one token a row, or take the first largest where `greedy`.

    Args:
        logits_RV: contiguous, in bfloat16, float32 or float64. -inf is never drawn.
        temperatures: [R] above 0.
        uniforms: [R] in [0, 1).
        greedy: [R]
    """
    rows, vocab = logits_RV.shape
    drawn = Drawn(np.empty(rows, np.int64), np.empty(rows), np.empty(rows))
    work = np.empty((share_threads(NS_PER_LOGIT * rows * vocab), vocab))
    _draw(readable(logits_RV), BITS_PER_NAT / temperatures, uniforms, greedy, work, *drawn)
    return drawn


@numba.njit(parallel=True, cache=True)
def _draw(logits, factors, uniforms, greedy, work, token_ids, logprobs, entropies):
    for row in numba.prange(len(logits)):
        weights = work[numba.get_thread_id()]
        largest, total, mean = _weigh(logits[row], factors[row], weights)
        if not (np.isfinite(largest) and np.isfinite(total)):
            token_ids[row] = BROKEN
            continue
        token = weights.argmax() if greedy[row] else _first_above(weights, uniforms[row] * total)
        log_total = math.log(total)
        chosen = factors[row] * (number(logits[row, token]) - largest) / BITS_PER_NAT
        token_ids[row] = token
        logprobs[row] = min(chosen - log_total, 0.0)
        entropies[row] = max(log_total - mean / BITS_PER_NAT, 0.0)


@numba.njit(fastmath=SUMS, cache=True)
def _weigh(logits, factor, weights):
    """The largest logit; and of exponents x = factor (logit - largest): sums of 2^x, and of x under them."""
    largest = -np.inf
    for token in range(len(logits)):
        largest = max(largest, number(logits[token]))
    total, mean = 0.0, 0.0
    for token in range(len(logits)):
        # What is masked has no weight, but 0 x inf would be NaN.
        exponent = max(factor * (number(logits[token]) - largest), SMALLEST_EXPONENT)
        weight = power_of_2(exponent)
        weights[token] = weight
        total += weight
        mean += weight * exponent
    return largest, total, mean / total


@numba.njit(cache=True)
def _first_above(weights, target):
    """The first place at which the running sum passes the target; if rounding keeps it below, the last."""
    passed, last = 0.0, 0
    for place in range(len(weights)):
        if weights[place] > 0:
            passed += weights[place]
            last = place
            if passed > target:
                break
    return last
