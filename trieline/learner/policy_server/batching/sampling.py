"""How rows of logits are to be sampled, and what came of it, on any device.

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

from trieline.common.arrays import Bool, Int32

# What is scaled stays finite: below the first the draw is as good as greedy, above the second uniform.
TEMPERATURES = (1e-20, 1e20)


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

    @property
    def divisors(self) -> npt.NDArray[np.float64]:
        """[R] by which logits are divided; 1 where the draw is greedy."""
        return np.where(self.temperature == 0, 1.0, self.temperature.clip(*TEMPERATURES))

    def drops(self, vocab_size: int) -> Bool:
        """[R] whether `top_k` or `top_p` can leave any token out."""
        drops: Bool = (self.top_p < 1) | ((self.top_k > 0) & (self.top_k < vocab_size))
        return drops & (self.temperature > 0)


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


def uniforms(seed: npt.NDArray[np.uint64], position: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair, without state: SplitMix64's finaliser, twice (Steele 2014)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = _mix(_mix(seed + golden) + position * golden)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
