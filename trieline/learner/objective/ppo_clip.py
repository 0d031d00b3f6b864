"""PPO's clipped objective (arXiv 1707.06347, eq. 7), clip limits apart (DAPO, arXiv 2503.14476).

    loss_t = - min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t),   r_t = pi(a_t) / mu(a_t)

The old policy is the one that sampled, by its recorded log-probabilities: so the correction for staleness and
the clip are one ratio. (With one gradient pass over a sample a decoupled proximal policy would equal the
current one; the losses `tis` and `icepop` are that case with their weights.)

Where A_t < 0 nothing above bounds r_t: r_t never exceeds MAX_RATIO, and with `dual_clip` = c (dual-clip PPO,
arXiv 1912.09729, eq. 5) the loss of such a token is at most - c A_t.
"""

import torch

from trieline.learner.objective.policy_loss import TokenColumns, TokenLosses
from trieline.learner.objective_config import ObjectiveConfig


def ppo_clip(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """The pessimistic one of the plain and the clipped surrogate."""
    ratios, advantages = columns.ratios(), columns.advantages
    low, high = 1 - config.clip_low, 1 + config.clip_high
    surrogate = torch.minimum(ratios * advantages, ratios.clamp(low, high) * advantages)
    # Tokens whose gradient a clip takes away.
    metrics = {
        "clip_ratio/low": (ratios < low) & (advantages < 0),
        "clip_ratio/high": (ratios > high) & (advantages > 0),
    }
    if config.dual_clip is not None:
        negative = advantages < 0
        surrogate = torch.where(negative, surrogate.maximum(config.dual_clip * advantages), surrogate)
        metrics["clip_ratio/dual"] = (ratios > config.dual_clip) & negative
    return TokenLosses(losses=-surrogate, metrics=metrics)
