"""The figures of a batch that are known before the model runs."""

from collections.abc import Sequence

from trieline.common.arrays import Float64
from trieline.common.tally import Tally
from trieline.learner.batch.sequences import ScoredSequence
from trieline.learner.batch.trie import Trie
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


def add_tree_shapes(
    metrics: Tally, trees: Sequence[TrajectoryTree], scored: Sequence[Sequence[ScoredSequence]]
) -> None:
    """Branches, depth and forks, means over the trees; of the forks, windows that a full context began.

    Nobody asked for a fork where a later turn disagrees with the stored tokens.
    """
    forks = [cause for tree in trees for cause in tree.fork_causes if cause not in ("", "rollout")]
    depths = [len(tree.path(int(node))) for tree in trees for node in tree.leaf_nodes]
    metrics.add_mean("tree/branches", sum(len(group) for group in scored), len(trees))
    metrics.add_mean("tree/depth", sum(depths), len(depths))
    metrics.add_mean("tree/forks", len(forks), len(trees))
    metrics.add_mean("tree/compactions", forks.count("compaction"), len(trees))
    metrics.add_mean("tree/unasked_forks", forks.count("token_mismatch"), len(trees))


def add_packing(metrics: Tally, tries: Sequence[Trie], max_tokens: int) -> None:
    """N, L, both ratios of them, pairs that attend, and the share of the passes' room that stays empty."""
    unique = sum(trie.num_tokens for trie in tries)
    total = sum(trie.num_sequence_tokens for trie in tries)
    room = sum(max(max_tokens, trie.num_tokens) for trie in tries)
    metrics.add_total("batch/trie_tokens", unique)
    metrics.add_total("batch/sequence_tokens", total)
    metrics.add_total("batch/visible_pairs", sum(trie.num_visible_pairs for trie in tries))
    metrics.add_mean("batch/waste", room - unique, room)
    metrics.add_mean("tree/token_ratio", unique, total)
    metrics.add_mean("tree/saving", total, unique)


def add_scales(metrics: Tally, scales: Float64, config: ObjectiveConfig) -> None:
    """How the entropy-aware scales are distributed."""
    at_limit = (scales <= config.entropy_scale_min) | (scales >= config.entropy_scale_max)
    total, squares = float(scales.sum()), float((scales * scales).sum())
    metrics.add_mean("entropy_scale/mean", total, len(scales))
    metrics.add_deviation("entropy_scale/std", len(scales), total, squares)
    metrics.add_minimum("entropy_scale/min", float(scales.min()))
    metrics.add_maximum("entropy_scale/max", float(scales.max()))
    metrics.add_mean("entropy_scale/clipped_fraction", int(at_limit.sum()), len(scales))
