"""Next tokens, with log-probability and entropy of the very distribution that they were drawn from.

Row r is drawn from softmax(logits / temperature), cut to `top_k` and then to `top_p` and renormalised, all in
float32. The draw inverts the cumulative distribution at one uniform number that depends on (seed, position)
alone, so that the same request gives the same tokens whatever it is batched with, as far as the logits
agree. Temperature 0 takes the largest logit, and its figures are those of temperature 1.

Letters: R rows, V vocabulary, B blocks of a row.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trieline.learner.policy_server.errors import NonFiniteLogitsError

# Probabilities are summed in blocks of this many, so that only one block of a row is summed up one by one.
BLOCK = 128
# Rows are worked on so many numbers at a time: the float32 copies then stay in the CPU's cache.
WORK_NUMBERS = 512 * 1024
# Powers are of base 2: torch.exp is three times slower, and up to forty times where its result underflows.
LOG_2 = math.log(2)
# What is scaled stays finite: below the first the draw is as good as greedy, above the second uniform.
TEMPERATURES = (1e-20, 1e20)
# Far below every logit, yet finite: 0 x -inf would make the entropy NaN.
DROPPED = -1e30
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

    def part(self, rows: slice) -> "RowSampling":
        """Some of the rows."""
        return RowSampling(
            temperature=self.temperature[rows],
            top_p=self.top_p[rows],
            top_k=self.top_k[rows],
            seed=self.seed[rows],
            position=self.position[rows],
        )


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
    num_rows, vocab = logits_RV.shape
    rows_at_once = max(1, WORK_NUMBERS // vocab)
    num_blocks = -(-vocab // BLOCK)
    work = torch.empty(2, min(rows_at_once, num_rows), num_blocks * BLOCK)
    work[0, :, vocab:] = DROPPED
    parts = [slice(begin, min(begin + rows_at_once, num_rows)) for begin in range(0, num_rows, rows_at_once)]
    done = [_sample_part(logits_RV[rows], how.part(rows), work) for rows in parts]
    return Sampled(
        token_ids=np.concatenate([part.token_ids for part in done]),
        logprobs=np.concatenate([part.logprobs for part in done]),
        entropies=np.concatenate([part.entropies for part in done]),
    )


def _sample_part(logits_RV: Tensor, how: RowSampling, work: Tensor) -> Sampled:
    num_rows, vocab = logits_RV.shape
    scaled, weights = work[0, :num_rows], work[1, :num_rows]
    _scale(logits_RV, how, scaled)
    greedy = np.flatnonzero(how.temperature == 0)
    best = scaled[greedy, :vocab].argmax(-1).numpy() if len(greedy) else None
    for row in np.flatnonzero((how.temperature > 0) & ((how.top_p < 1) | (how.top_k > 0))):
        _drop(scaled[row, :vocab], int(how.top_k[row]), float(how.top_p[row]))
    torch.exp2(scaled, out=weights)
    block_sums = weights.view(num_rows, -1, BLOCK).sum(-1).double().numpy()
    token_ids = _invert(weights, block_sums, uniforms(how.seed, how.position))
    if best is not None:
        token_ids[greedy] = best
    totals = block_sums.sum(-1)
    mean_scaled = LOG_2 * _dots(weights, scaled) / totals
    chosen = LOG_2 * scaled[torch.arange(num_rows), torch.from_numpy(token_ids)].double().numpy()
    log_totals = np.log(totals)
    return Sampled(
        token_ids=token_ids,
        logprobs=np.minimum(chosen - log_totals, 0.0).astype(np.float32),
        entropies=np.maximum(log_totals - mean_scaled, 0.0).astype(np.float32),
    )


def _dots(weights: Tensor, scaled: Tensor) -> npt.NDArray[np.float64]:
    """Sums of weight x logit along the rows; what has no weight adds nothing."""
    dots = torch.linalg.vecdot(weights, scaled)
    if torch.isnan(dots).any():
        # 0 x -inf, where the model itself masks a token. Rare, so looked for afterwards.
        dots = torch.linalg.vecdot(weights, scaled.clamp_(min=DROPPED))
    values: npt.NDArray[np.float64] = dots.double().numpy()
    return values


def _scale(logits_RV: Tensor, how: RowSampling, out: Tensor) -> None:
    """Write log2(e) (logits - their maximum) / temperature, so that the largest is 0."""
    vocab = logits_RV.shape[1]
    scaled = out[:, :vocab]
    scaled.copy_(logits_RV)
    largest = scaled.amax(-1, keepdim=True)
    if not torch.isfinite(largest).all():
        msg = "the model's logits hold NaN or infinity"
        raise NonFiniteLogitsError(msg)
    temperature = np.where(how.temperature == 0, 1.0, how.temperature)
    factor = 1 / (LOG_2 * temperature.clip(*TEMPERATURES)).astype(np.float32)
    scaled.sub_(largest).mul_(torch.from_numpy(factor)[:, None])


def _drop(scaled_V: Tensor, top_k: int, top_p: float) -> None:
    """Cut a row in place to its `top_k` largest, and those to the fewest that hold `top_p` of their mass."""
    vocab = len(scaled_V)
    count = min(top_k or vocab, vocab)
    total = float(scaled_V.exp2().sum()) if count == vocab else None
    for tried in (min(count, TOP_CANDIDATES), count):
        values, order = scaled_V.topk(tried)
        mass = values.exp2().double()
        before = mass.cumsum(0) - mass
        kept = before < top_p * (mass.sum() if total is None else total)
        if tried == count or not kept[-1]:
            break
    kept[0] = True
    scaled_V.fill_(DROPPED)
    scaled_V[order[kept]] = values[kept]


def _invert(
    weights: Tensor, block_sums: npt.NDArray[np.float64], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Per row the first token at which the running sum of the weights passes `uniform` of their total."""
    rows = np.arange(len(uniform))
    block_ends = block_sums.cumsum(-1)
    blocks, before = _first_above(block_ends, uniform * block_ends[:, -1])
    inside = weights.view(len(uniform), -1, BLOCK)[torch.from_numpy(rows), torch.from_numpy(blocks)]
    ends = inside.double().numpy().cumsum(-1)
    # The share of the block that is left to pass, on the scale of the block's own sum.
    share = (uniform * block_ends[:, -1] - before) / block_sums[rows, blocks]
    places, _ = _first_above(ends, share * ends[:, -1])
    return blocks * BLOCK + places


def _first_above(
    ends: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Per row the first entry of the running sum above the target, and the sum in front of it.

    Rounding may put a target on the total; the last entry that adds something is then taken.
    """
    target = np.minimum(np.maximum(target, 0.0), np.nextafter(ends[:, -1], 0.0))
    first = (ends > target[:, None]).argmax(-1)
    before = np.where(first > 0, ends[np.arange(len(ends)), first - 1], 0.0)
    return first, before


def uniforms(seed: npt.NDArray[np.uint64], position: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair, without state: SplitMix64's finaliser, twice (Steele 2014)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = _mix(_mix(seed + golden) + position * golden)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
