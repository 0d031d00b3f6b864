"""Next tokens, with log-probability and entropy of the very distribution that they were drawn from.

Row r is drawn from softmax(logits / temperature), cut to `top_k` and then to `top_p` and renormalised. The
draw inverts the cumulative distribution at one uniform number that depends on (seed, position) alone, so that
the same request gives the same tokens whatever it is batched with. Temperature 0 takes the largest logit, and
its figures are those of temperature 1.

Letters: R rows, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trieline.kernels.token_draw import BROKEN, draw_tokens
from trieline.learner.policy_server.errors import NonFiniteLogitsError

# What is scaled stays finite: below the first the draw is as good as greedy, above the second uniform.
TEMPERATURES = (1e-20, 1e20)
# top-p is first tried on this many of the largest logits; sorting the whole vocabulary takes far longer.
TOP_CANDIDATES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSampling:
    """How each of R rows is sampled."""

    temperature: npt.NDArray[np.float64]
    """[R] 0: greedy."""
    top_p: npt.NDArray[np.float64]
    """[R] 1: all."""
    top_k: npt.NDArray[np.int64]
    """[R] 0: all."""
    seed: npt.NDArray[np.uint64]
    """[R]"""
    position: npt.NDArray[np.uint64]
    """[R] place of the new token in its sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One new token for each of R rows."""

    token_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    """[R] nats"""
    entropies: npt.NDArray[np.float32]
    """[R] nats"""


@torch.inference_mode()
def sample(logits_RV: Tensor, how: RowSampling) -> Sampled:
    """Draw one token a row.

    Raises:
        NonFiniteLogitsError: a row has NaN or infinity.
    """
    greedy = how.temperature == 0
    temperatures = np.where(greedy, 1.0, how.temperature.clip(*TEMPERATURES))
    chance = uniforms(how.seed, how.position)
    drawn = draw_tokens(logits_RV.contiguous(), temperatures, chance, greedy)
    if (drawn.token_ids == BROKEN).any():
        msg = "the model's logits hold NaN or infinity"
        raise NonFiniteLogitsError(msg)
    cut = np.flatnonzero(~greedy & ((how.top_p < 1) | (how.top_k > 0)))
    if len(cut):
        kept_RV = logits_RV[cut].float()
        for logits_V, row in zip(kept_RV, cut, strict=True):
            _drop(logits_V, temperatures[row], int(how.top_k[row]), float(how.top_p[row]))
        redrawn = draw_tokens(kept_RV, temperatures[cut], chance[cut], greedy[cut])
        for column, values in zip(drawn, redrawn, strict=True):
            column[cut] = values
    return Sampled(
        token_ids=drawn.token_ids,
        logprobs=drawn.logprobs.astype(np.float32),
        entropies=drawn.entropies.astype(np.float32),
    )


def _drop(logits_V: Tensor, temperature: float, top_k: int, top_p: float) -> None:
    """Keep in place the `top_k` largest alone, and of those the fewest that hold `top_p` of their mass."""
    vocab = len(logits_V)
    count = min(top_k or vocab, vocab)
    largest = logits_V.max()
    # A few candidates first, where the mass of all is known without sorting them.
    total = float(((logits_V - largest) / temperature).exp().sum()) if count == vocab else None
    for tried in (min(vocab, TOP_CANDIDATES), vocab) if count == vocab else (count,):
        values, order = logits_V.topk(tried)
        mass = ((values.double() - largest) / temperature).exp()
        before = mass.cumsum(0) - mass
        kept = before < top_p * (mass.sum() if total is None else total)
        if tried == count or not kept[-1]:
            break
    kept[0] = True
    logits_V.fill_(-torch.inf)
    logits_V[order[kept]] = values[kept]


def uniforms(seed: npt.NDArray[np.uint64], position: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair, without state: SplitMix64's finaliser, twice (Steele 2014)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = _mix(_mix(seed + golden) + position * golden)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
