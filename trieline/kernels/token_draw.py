"""Tokens drawn from rows of logits, with log-probability and entropy, on the CPU.

For row r, with p = softmax(logits / temperature): the drawn token is the first at which the running sum of p
passes `uniforms[r]`, its log-probability is log p[token], the entropy -sum(p log p). All sums are made in
float64.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trieline.kernels.cpu.compiled import BITS_PER_NAT, readable, share_threads
from trieline.kernels.cpu.token_draw_kernel import draw_kernel

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
    draw_kernel(readable(logits_RV), BITS_PER_NAT / temperatures, uniforms, greedy, work, BROKEN, *drawn)
    return drawn
