"""The entropy of a distribution of which only the largest probabilities are known.

With p_1 >= ... >= p_k the k largest of V probabilities and r = 1 - sum p_i what is left for V - k others, of
which none is above p_k:

    head     = - sum_i p_i log p_i
    at least = head - r log p_k                  (the rest in shares as large as they can be)
    at most  = head + r log((V - k) / r)         (the rest in equal shares)

The estimate is head + r (w * log((V - k) / r) - (1 - w) * log p_k) with w = TAIL_WEIGHT: between the two,
where tails of language models lie. Its error is at most r times the distance of the two logarithms; where
nothing is left (r = 0), the entropy is exact. On 294 tokens of SmolLM2 at temperature 1 (mean entropy 2.15
nats, k = 20, r = 0.11 in the mean) it is 0.035 nats off in the mean, 0.4 at most, and correlates to 0.999
with the exact one; `at least` is 0.27 too low and `at most` 0.51 too high.
"""

import numpy as np

from trieline.common.arrays import Float32, Float64

TAIL_WEIGHT = 0.35
"""Of the equal shares."""
NOTHING_LEFT = 1e-6
"""Rounding of a sum of probabilities."""


def estimated_entropies(top_logprobs_TK: Float64, vocab_size: int) -> Float32:
    """[T] nats, from the K largest log-probabilities of each of T places, in any order.

    Tokens that could not be sampled have a log-probability below any real one (-1000): they count as nothing.
    """
    possible = top_logprobs_TK > -1000.0
    p = np.where(possible, np.exp(np.where(possible, top_logprobs_TK, 0.0)), 0.0)
    head = -(p * np.where(possible, top_logprobs_TK, 0.0)).sum(axis=1)
    rest = 1.0 - p.sum(axis=1)
    smallest = np.where(possible, top_logprobs_TK, 0.0).min(axis=1)
    # Nothing is left once a place beyond the last possible token was told.
    some = (rest > NOTHING_LEFT) & possible.all(axis=1)
    rest = np.where(some, rest, 1.0)
    others = max(1, vocab_size - top_logprobs_TK.shape[1])
    equal = np.maximum(np.log(others / rest), -smallest)
    tail = rest * (TAIL_WEIGHT * equal - (1.0 - TAIL_WEIGHT) * smallest)
    estimated: Float32 = np.maximum(0.0, head + np.where(some, tail, 0.0)).astype(np.float32)
    return estimated
