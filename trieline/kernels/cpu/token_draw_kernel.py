"""`draw_tokens`, compiled by numba: a row at a time, on a thread each.

`work` has a row of the vocabulary for each thread; `broken` marks rows that nothing can be drawn from.
"""

import math

import numba
import numpy as np

from trieline.kernels.cpu.compiled import BITS_PER_NAT, SMALLEST_EXPONENT, SUMS, compiled, number, power_of_2


@compiled(parallel=True)
def draw_kernel(logits, factors, uniforms, greedy, work, broken, token_ids, logprobs, entropies):
    """Fill in the last three for each row."""
    for row in numba.prange(len(logits)):
        weights = work[numba.get_thread_id()]
        largest, total, mean = _weigh(logits[row], factors[row], weights)
        if not (np.isfinite(largest) and np.isfinite(total)):
            token_ids[row] = broken
            continue
        token = weights.argmax() if greedy[row] else _first_above(weights, uniforms[row] * total)
        log_total = math.log(total)
        chosen = factors[row] * (number(logits[row, token]) - largest) / BITS_PER_NAT
        token_ids[row] = token
        logprobs[row] = min(chosen - log_total, 0.0)
        entropies[row] = max(log_total - mean / BITS_PER_NAT, 0.0)


@compiled(fastmath=SUMS)
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


@compiled()
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
