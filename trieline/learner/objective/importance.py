"""Importance-weighted policy gradients that others use in place of V-trace's clip.

    loss_t = - w_t * A_t * log pi(a_t),   w_t detached, from the ratio pi/mu

`pg`: w = 1, no correction (REINFORCE, Williams 1992): right only for tokens of the current policy.
`tis`: w = min(ratio, tis_cap), truncated importance sampling (Yao et al. 2025).
`icepop`: w = ratio where icepop_low <= ratio <= icepop_high, else 0 (Ring-1T, arXiv 2510.18855).
"""

import torch

from trieline.learner.objective.policy_loss import TokenColumns, TokenLosses
from trieline.learner.objective_config import ObjectiveConfig


def pg(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """No weight; behaviour log-probabilities are not read."""
    del config
    return TokenLosses(losses=-columns.advantages * columns.logprobs)


def tis(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """Truncate the weight."""
    ratios = columns.ratios().detach()
    weights = ratios.clamp(max=config.tis_cap)
    return TokenLosses(
        losses=-weights * columns.advantages * columns.logprobs,
        metrics={"clip_ratio/high": ratios > config.tis_cap},
    )


def icepop(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """Drop the tokens whose weight is out of bounds."""
    ratios = columns.ratios().detach()
    too_low, too_high = ratios < config.icepop_low, ratios > config.icepop_high
    weights = torch.where(too_low | too_high, 0.0, ratios)
    return TokenLosses(
        losses=-weights * columns.advantages * columns.logprobs,
        metrics={"clip_ratio/low": too_low, "clip_ratio/high": too_high},
    )
