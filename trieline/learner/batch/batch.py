"""A batch: everything that a gradient step needs to know of its trees before the model runs.

Weights of normalisation, advantages and entropy scales are made here, over the whole batch, so that the loss
doesn't depend on how the batch is packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trieline.common.arrays import Float64
from trieline.common.tally import Tally
from trieline.learner.batch.batch_metrics import add_packing, add_scales, add_tree_shapes
from trieline.learner.batch.entropy_scaling import entropy_scales
from trieline.learner.batch.episodes import joined
from trieline.learner.batch.groups import Group, trained_groups
from trieline.learner.batch.pack import Pack, make_pack
from trieline.learner.batch.packing import pack_groups
from trieline.learner.batch.sequences import ScoredSequence, scored_sequences
from trieline.learner.batch.spreading import spread
from trieline.learner.errors import BatchError
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What is trained on in one step. No packs: there is nothing to learn from, and no gradient."""

    packs: tuple[Pack, ...]
    max_tokens: int
    """Tokens that may have activations at one time: a pack with a larger trie is run depth-first."""
    metrics: Tally
    """Those known before the model runs."""
    shares: tuple[tuple[int, ...], ...]
    """The packs of each rank of the learner."""

    @property
    def num_columns(self) -> int:
        """Sampled tokens over all sequences."""
        return sum(len(pack.weights) for pack in self.packs)


def prepare_batch(
    trees: Sequence[TrajectoryTree],
    config: ObjectiveConfig,
    *,
    max_tokens: int,
    num_ranks: int = 1,
    pair_cost: float = 0.0,
) -> Batch:
    """Make the packs, of at most `max_tokens` trie tokens each, from the scored leaves of `trees`.

    A group costs its tokens, and `pair_cost` tokens for each pair of them that see each other; by this cost
    the groups are spread over `num_ranks`.

    Raises:
        BatchError: the objective can't be computed from what these trees record.
    """
    scored = scored_sequences(trees)
    if config.loss == "sft":
        # It teaches what was written, however it came about.
        scored = [[replace(s, mask_index=None, masks=None) for s in group] for group in scored]
    _expect_usable(trees, scored, config)
    groups, num_equal = trained_groups(scored, config)
    sequences = [sequence for group in groups for sequence in group.sequences]
    episodes = joined([group.episodes for group in groups])
    scales = entropy_scales([s.entropies[s.trained] for s in sequences], config, episodes)
    weights = _weights(groups, config)
    bins, shares = _packed(groups, max_tokens, num_ranks, pair_cost)
    first = np.cumsum([0, *(len(group.sequences) for group in groups)])
    packs = []
    for members in bins:
        index = [b for g in members for b in range(first[g], first[g + 1])]
        packs.append(
            make_pack([groups[g] for g in members], [scales[b] for b in index], weights[index], config)
        )
    metrics = Tally()
    add_tree_shapes(metrics, trees, scored)
    metrics.add_mean("frac_reward_zero_std", num_equal, sum(len(group) > 0 for group in scored))
    metrics.add_total("batch/trees", len(groups))
    metrics.add_total("batch/sequences", len(sequences))
    metrics.add_total("batch/sampled_tokens", sum(s.num_trained for s in sequences))
    metrics.add_total("batch/packs", len(packs))
    metrics.add_total("batch/depth_first_tries", sum(group.trie.num_tokens > max_tokens for group in groups))
    if packs:
        add_packing(metrics, [pack.trie for pack in packs], max_tokens)
        if config.entropy_scaling != "off":
            add_scales(metrics, np.concatenate(scales), config)
    return Batch(packs=tuple(packs), max_tokens=max_tokens, metrics=metrics, shares=shares)


def _packed(
    groups: Sequence[Group], max_tokens: int, num_ranks: int, pair_cost: float
) -> tuple[list[list[int]], tuple[tuple[int, ...], ...]]:
    """The groups of each pack, and the packs of each rank."""
    sizes = [group.trie.num_tokens for group in groups]
    costs = [g.trie.num_tokens + pair_cost * g.trie.num_visible_pairs for g in groups]
    bins: list[list[int]] = []
    shares = []
    for share in spread(costs, num_ranks):
        found = pack_groups(
            [sizes[g] for g in share], [groups[g].sequences[0].keys for g in share], max_tokens=max_tokens
        )
        shares.append(tuple(range(len(bins), len(bins) + len(found))))
        bins += [[share[i] for i in members] for members in found]
    return bins, tuple(shares)


def _expect_usable(
    trees: Sequence[TrajectoryTree], scored: Sequence[Sequence[ScoredSequence]], config: ObjectiveConfig
) -> None:
    for sequence in (s for group in scored for s in group):
        tree = trees[sequence.tree]
        unknown = np.isnan(sequence.entropies[sequence.trained]).any()
        if unknown and config.entropy_scaling != "off":
            msg = (
                f"{tree.env_id}, task {tree.task_id}: expected the entropies of sampled tokens with "
                f"entropy_scaling = {config.entropy_scaling!r}, got unknown ones"
            )
            raise BatchError(msg)
        if config.entropy_scaling == "token" and tree.entropies_estimated:
            msg = (
                f"{tree.env_id}, task {tree.task_id}: expected exact entropies with entropy_scaling = "
                "'token', got estimates; 'sequence' takes them"
            )
            raise BatchError(msg)


def _weights(groups: list[Group], config: ObjectiveConfig) -> Float64:
    """Weight of each sampled token of each sequence, one number a sequence.

    With n_b the tokens that sequence b trains, n_e the sum of them over the sequences of episode e:

        token:    1 / sum of n_b over the batch
        rollout:  sum over the episodes e of b of 1 / (episodes of the batch * n_e)
        tree:     1 / (trees of the batch * sum of n_b over the tree)

    So `rollout` weighs an episode the same however many windows and sub-agents it had. `token`, and `tree`
    within a tree, weigh by tokens on purpose: an episode with more of them counts more, in one window or
    in many.
    """
    lengths = [np.array([s.num_trained for s in group.sequences], np.float64) for group in groups]
    if not lengths:
        return np.empty(0)
    all_lengths = np.concatenate(lengths)
    if config.norm == "token":
        return np.full(len(all_lengths), 1 / all_lengths.sum())
    if config.norm == "rollout":
        episodes = joined([group.episodes for group in groups])
        return episodes.shares(1 / (episodes.num_episodes * episodes.totals(all_lengths)))
    return np.concatenate([np.full(len(n), 1 / (len(lengths) * n.sum())) for n in lengths])
