"""The figures of a batch that are known before the model runs."""

from collections.abc import Sequence

import numpy as np

from trieline.common.arrays import Float64
from trieline.learner.batch.sequences import ScoredSequence
from trieline.learner.batch.trie import Trie
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


def tree_shape_metrics(
    trees: Sequence[TrajectoryTree], scored: Sequence[Sequence[ScoredSequence]]
) -> dict[str, float]:
    """Branches, depth and forks, means over the trees."""
    if not trees:
        return {}
    forks = [cause for tree in trees for cause in tree.fork_causes if cause not in ("", "rollout")]
    depths = [len(tree.path(int(node))) for tree in trees for node in tree.leaf_nodes]
    return {
        "tree/branches": sum(len(group) for group in scored) / len(trees),
        "tree/depth": float(np.mean(depths)),
        "tree/forks": len(forks) / len(trees),
        "tree/unasked_forks": sum(cause != "branch" for cause in forks) / len(trees),
    }


def packing_metrics(tries: Sequence[Trie], max_tokens: int) -> dict[str, float]:
    """N, L, both ratios of them, pairs that attend, and the share of the passes' room that stays empty."""
    unique = sum(trie.num_tokens for trie in tries)
    total = sum(trie.num_sequence_tokens for trie in tries)
    room = sum(max(max_tokens, trie.num_tokens) for trie in tries)
    return {
        "batch/trie_tokens": float(unique),
        "batch/sequence_tokens": float(total),
        "batch/visible_pairs": float(sum(trie.num_visible_pairs for trie in tries)),
        "batch/waste": 1 - unique / room,
        "tree/token_ratio": unique / total,
        "tree/saving": total / unique,
    }


def scale_metrics(scales: Float64, config: ObjectiveConfig) -> dict[str, float]:
    """How the entropy-aware scales are distributed."""
    at_limit = (scales <= config.entropy_scale_min) | (scales >= config.entropy_scale_max)
    return {
        "entropy_scale/mean": float(scales.mean()),
        "entropy_scale/std": float(scales.std()),
        "entropy_scale/min": float(scales.min()),
        "entropy_scale/max": float(scales.max()),
        "entropy_scale/clipped_fraction": float(at_limit.mean()),
    }
