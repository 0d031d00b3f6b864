"""Next tokens, with log-probability and entropy of the very distribution that they were drawn from.

Row r is drawn from softmax(logits / temperature), cut to what a grammar allows, then to `top_k` and to
`top_p`, and renormalised. The draw inverts the cumulative distribution at one uniform number that depends on
(seed, position) alone, so that the same request gives the same tokens whatever it is batched with.
Temperature 0 takes the largest logit that the grammar allows, and its figures are those of temperature 1.

Letters: R rows, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trieline.common.arrays import Bool, Int32
from trieline.kernels.token_draw import BROKEN, Drawn, draw_tokens
from trieline.learner.policy_server.errors import NonFiniteLogitsError
from trieline.wire.token_masks import runs_of

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
    allowed: tuple[Bool | None, ...] = ()
    """[R] one flag for each of the V tokens, at least one of them True; None: all. Empty: all in all rows."""
    tell_masks: tuple[bool, ...] = ()
    """[R] whose masks of `top_k` and `top_p` are told. Empty: of no row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One new token for each of R rows."""

    token_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    """[R] nats"""
    entropies: npt.NDArray[np.float32]
    """[R] nats"""
    masks: Mapping[int, Int32]
    """The runs of tokens that were left (see `trieline.wire.token_masks`), by row: of those that tell it and
    had not all of them left."""


@torch.inference_mode()
def sample(logits_RV: Tensor, how: RowSampling) -> Sampled:
    """Draw one token a row.

    Raises:
        NonFiniteLogitsError: a row has NaN or infinity.
    """
    greedy = how.temperature == 0
    temperatures = np.where(greedy, 1.0, how.temperature.clip(*TEMPERATURES))
    chance = uniforms(how.seed, how.position)
    is_dropped = ~greedy & ((how.top_p < 1) | (how.top_k > 0))
    is_cut = is_dropped.copy()
    is_cut[[row for row, allowed in enumerate(how.allowed) if allowed is not None]] = True
    masks: dict[int, Int32] = {}
    drawn = Drawn(np.empty(len(chance), np.int64), np.empty(len(chance)), np.empty(len(chance)))
    for rows, are_cut in ((np.flatnonzero(~is_cut), False), (np.flatnonzero(is_cut), True)):
        if len(rows) == 0:
            continue
        rows_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]
        if are_cut:
            rows_RV = rows_RV.to(torch.float32, copy=True)
            for logits_V, row in zip(rows_RV, rows.tolist(), strict=True):
                _cut(logits_V, row, how, temperatures[row] if is_dropped[row] else None, masks)
        found = draw_tokens(rows_RV.contiguous(), temperatures[rows], chance[rows], greedy[rows])
        for column, values in zip(drawn, found, strict=True):
            column[rows] = values
    if (drawn.token_ids == BROKEN).any():
        msg = "the model's logits hold NaN or infinity"
        raise NonFiniteLogitsError(msg)
    return Sampled(
        token_ids=drawn.token_ids,
        logprobs=drawn.logprobs.astype(np.float32),
        entropies=drawn.entropies.astype(np.float32),
        masks=masks,
    )


def _cut(
    logits_V: Tensor, row: int, how: RowSampling, temperature: float | None, masks: dict[int, Int32]
) -> None:
    """Leave in place what a row may take. `temperature`: of `top_k` and `top_p`; None: these don't count."""
    allowed = how.allowed[row] if how.allowed else None
    # By numpy: threads of torch gain nothing on one row, and wait for each other.
    values = logits_V.numpy()
    if allowed is not None:
        np.copyto(values, -np.inf, where=~allowed)
    if temperature is not None:
        _drop(logits_V, temperature, int(how.top_k[row]), float(how.top_p[row]))
    if allowed is None and not (how.tell_masks and how.tell_masks[row]):
        return
    left = allowed
    if left is None or temperature is not None:
        left = values > -np.inf
    if not left.all():
        masks[row] = runs_of(left)


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
