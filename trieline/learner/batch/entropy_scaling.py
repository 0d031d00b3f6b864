"""Entropy-aware advantage scaling (KAT-Dev-72B-Exp model card): uncertain rollouts count more.

With H_bt the recorded entropy of a sampled token, H_b its mean over the tokens of rollout b:

    sequence:  s_b  = clip(H_b / mean over the batch of H_b, s_min, s_max)
    token:     s_bt = clip(H_bt / mean over the batch of H_bt, s_min, s_max)

A rollout is an episode with all its context windows and sub-agents: they have one H_b, that of all tokens
together, and count once in the mean. A sequence of several episodes has the mean of their H_b. `token` looks
at tokens alone, whichever rollout they are from.

The factor multiplies the advantage. It is made of recorded numbers, so no gradient goes through it.
"""

from collections.abc import Sequence

import numpy as np

from trieline.common.arrays import Float32, Float64
from trieline.learner.batch.episodes import Episodes, alone
from trieline.learner.objective_config import ObjectiveConfig


def entropy_scales(
    entropies: Sequence[Float32], config: ObjectiveConfig, episodes: Episodes | None = None
) -> list[Float64]:
    """The factor of each sampled token, from the recorded entropies of each sequence's sampled tokens.

    `episodes`: which sequences are one rollout; None: each is one.
    """
    recorded = [e.astype(np.float64) for e in entropies]
    if config.entropy_scaling == "off" or not recorded:
        return [np.ones(len(e)) for e in recorded]
    if config.entropy_scaling == "sequence":
        episodes = episodes or alone(len(recorded))
        lengths = episodes.totals(np.array([float(len(e)) for e in recorded]))
        of_episodes = episodes.totals(np.array([e.sum() for e in recorded])) / lengths
        mean = float(of_episodes.mean())
        means = episodes.means(of_episodes)
        recorded = [np.full(len(e), own) for e, own in zip(recorded, means, strict=True)]
    else:
        mean = float(np.concatenate(recorded).mean())
    if mean <= 0:
        # Greedy sampling: no rollout was more uncertain than another.
        return [np.ones(len(e)) for e in recorded]
    return [np.clip(e / mean, config.entropy_scale_min, config.entropy_scale_max) for e in recorded]
