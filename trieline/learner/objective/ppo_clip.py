"""PPO's clipped objective (arXiv 1707.06347, eq. 7), clip limits apart (DAPO, arXiv 2503.14476).

    loss_t = - min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t),   r_t = pi(a_t) / mu(a_t)

The old policy is the one that sampled, by its recorded log-probabilities: so the correction for staleness and
the clip are one ratio. (With one gradient pass over a sample a decoupled proximal policy would equal the
current one; the losses `tis` and `icepop` are that case with their weights.)
"""

import torch

from trieline.learner.objective.policy_loss import TokenColumns, TokenLosses
from trieline.learner.objective_config import ObjectiveConfig


def ppo_clip(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """The pessimistic one of the plain and the clipped surrogate."""
    ratios = (columns.logprobs - columns.behavior_logprobs).exp()
    low, high = 1 - config.clip_low, 1 + config.clip_high
    surrogate = torch.minimum(ratios * columns.advantages, ratios.clamp(low, high) * columns.advantages)
    return TokenLosses(
        losses=-surrogate,
        # Tokens whose gradient the clip takes away.
        metrics={
            "clip_ratio/low": (ratios < low) & (columns.advantages < 0),
            "clip_ratio/high": (ratios > high) & (columns.advantages > 0),
        },
    )
