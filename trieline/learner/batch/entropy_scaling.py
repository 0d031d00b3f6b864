"""Entropy-aware advantage scaling (KAT-Dev-72B-Exp model card): uncertain rollouts count more.

With H_bt the recorded entropy of a sampled token, H_b its mean over the tokens of rollout b:

    sequence:  s_b  = clip(H_b / mean over the batch of H_b, s_min, s_max)
    token:     s_bt = clip(H_bt / mean over the batch of H_bt, s_min, s_max)

The factor multiplies the advantage. It is made of recorded numbers, so no gradient goes through it.
"""

from collections.abc import Sequence

import numpy as np

from trieline.common.arrays import Float32, Float64
from trieline.learner.objective_config import ObjectiveConfig


def entropy_scales(entropies: Sequence[Float32], config: ObjectiveConfig) -> list[Float64]:
    """The factor of each sampled token, from the recorded entropies of each sequence's sampled tokens."""
    recorded = [e.astype(np.float64) for e in entropies]
    if config.entropy_scaling == "off" or not recorded:
        return [np.ones(len(e)) for e in recorded]
    if config.entropy_scaling == "sequence":
        recorded = [np.full(len(e), e.mean()) for e in recorded]
        mean = float(np.mean([e[0] for e in recorded]))
    else:
        mean = float(np.concatenate(recorded).mean())
    if mean <= 0:
        # Greedy sampling: no rollout was more uncertain than another.
        return [np.ones(len(e)) for e in recorded]
    return [np.clip(e / mean, config.entropy_scale_min, config.entropy_scale_max) for e in recorded]
