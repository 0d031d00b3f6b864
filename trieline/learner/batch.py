"""A batch: everything that a gradient step needs to know of its trees before the model runs.

Weights of normalisation, advantages and entropy scales are made here, over the whole batch, so that the loss
doesn't depend on how the batch is packed. Every pack is one forward pass over a forest of tries, and columns
of its sampled tokens: a token that several sequences share stands there once for each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trieline.actors.wire.tree import Bool, Int32, TrajectoryTree
from trieline.learner.advantages import group_advantages, return_scale, tree_advantages
from trieline.learner.entropy_scaling import entropy_scales
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.packing import pack_groups
from trieline.learner.sequences import ScoredSequence, scored_sequences
from trieline.learner.trie import Trie, build_trie
from trieline.learner.vtrace import TrieEpisodes, trie_episodes

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """The sequences of one tree that are trained on, B of them, and their own trie."""

    sequences: list[ScoredSequence]
    trie: Trie
    advantages: list[Float64]
    """[B] arrays over the trained tokens of each sequence; zeros where the model's values are needed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupTrace:
    """One group of a pack, for V-trace: its episodes, where its n trie tokens are, and its m columns."""

    episodes: TrieEpisodes
    tokens: Int64
    """[n] place of each of its trie tokens in the pack's trie."""
    column_tokens: Int64
    """[m] the trie token (of the group's trie) of each column."""
    column_does: Int64
    """[m] what the column's sequence does after it: a row of the tables of `vtrace`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """One forward pass: N trie tokens, R of them predict sampled tokens, U different ones; M columns."""

    trie: Trie
    rows: Tensor
    """[R] int64, trie tokens whose next token was sampled."""
    target_rows: Tensor
    """[U] int64, index into `rows`."""
    target_ids: Tensor
    """[U] int64, the sampled token."""
    target_tokens: Tensor
    """[U] int64, its place in the trie."""
    column_targets: Tensor
    """[M] int64, index into the U targets: the gather that makes sequences of the trie."""
    column_sequences: Tensor
    """[M] int64, index of the sequence in the pack's trie."""
    behavior_logprobs: Tensor
    """[M] float64"""
    advantages: Tensor
    """[M] float64, not yet scaled; zeros where the model's values are needed."""
    scales: Tensor
    """[M] float64, entropy-aware scale of the advantage."""
    weights: Tensor
    """[M] float64, weight of the token's loss in the whole batch's; they sum to 1 over all packs."""
    oldest_version: Tensor
    newest_version: Tensor
    """[M] int64, over the sampled tokens of the sequence up to this one."""
    traces: tuple[GroupTrace, ...]
    """Empty unless the advantage is `vtrace`; the columns of the groups follow each other in this order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What is trained on in one step. No packs: there is nothing to learn from, and no gradient."""

    packs: tuple[Pack, ...]
    max_tokens: int
    """Tokens that may have activations at one time: a pack with a larger trie is run depth-first."""
    metrics: dict[str, float]
    """Those known before the model runs."""

    @property
    def num_columns(self) -> int:
        """Sampled tokens over all sequences."""
        return sum(len(pack.weights) for pack in self.packs)


def prepare_batch(trees: Sequence[TrajectoryTree], config: ObjectiveConfig, *, max_tokens: int) -> Batch:
    """Make the packs, of at most `max_tokens` trie tokens each, from the scored leaves of `trees`."""
    scored = scored_sequences(trees)
    groups, num_equal = _groups(scored, config)
    sequences = [sequence for group in groups for sequence in group.sequences]
    scales = entropy_scales([s.entropies[s.trained] for s in sequences], config)
    weights = _weights(groups, config)
    sizes = [group.trie.num_tokens for group in groups]
    bins = pack_groups(sizes, [group.sequences[0].token_ids for group in groups], max_tokens=max_tokens)
    first = np.cumsum([0, *(len(group.sequences) for group in groups)])
    packs = []
    for members in bins:
        index = [b for g in members for b in range(first[g], first[g + 1])]
        packs.append(_pack([groups[g] for g in members], [scales[b] for b in index], weights[index], config))
    metrics = _tree_metrics(trees, scored) | {
        "frac_reward_zero_std": num_equal / max(1, sum(len(group) > 0 for group in scored)),
        "batch/trees": float(len(groups)),
        "batch/sequences": float(len(sequences)),
        "batch/sampled_tokens": float(sum(s.num_trained for s in sequences)),
        "batch/packs": float(len(packs)),
        "batch/depth_first_tries": float(sum(size > max_tokens for size in sizes)),
    }
    if packs:
        metrics |= _packing_metrics([pack.trie for pack in packs], max_tokens)
        if config.entropy_scaling != "off":
            metrics |= _scale_metrics(np.concatenate(scales), config)
    return Batch(packs=tuple(packs), max_tokens=max_tokens, metrics=metrics)


def _groups(scored: list[list[ScoredSequence]], config: ObjectiveConfig) -> tuple[list[Group], int]:
    """The groups to train on, and how many have equal returns (left out if the config says so)."""
    returns = [np.array([s.sequence_return for s in group]) for group in scored]
    all_returns = np.concatenate([np.empty(0), *returns])
    groups, num_equal = [], 0
    for sequences, group_returns in zip(scored, returns, strict=True):
        if not sequences:
            continue
        equal = bool(group_returns.max() == group_returns.min())
        num_equal += equal
        if equal and config.skips_equal_returns:
            continue
        # A sequence without sampled tokens counts for the others' baseline, and teaches nothing.
        trained = np.array([s.num_trained > 0 for s in sequences])
        if not trained.any():
            continue
        kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
        trie = build_trie([s.token_ids for s in kept])
        advantages = _advantages(sequences, group_returns, trained, trie, config)
        scale = {"none": 1.0, "group": return_scale(group_returns), "batch": return_scale(all_returns)}
        advantages = [a * scale[config.scale_rewards] for a in advantages]
        groups.append(Group(sequences=kept, trie=trie, advantages=advantages))
    return groups, num_equal


def _advantages(
    sequences: list[ScoredSequence], returns: Float64, trained: Bool, trie: Trie, config: ObjectiveConfig
) -> list[Float64]:
    """[B] arrays over the trained tokens of the sequences in `trie`, those of `trained`."""
    kept = [s for s, keep in zip(sequences, trained, strict=True) if keep]
    if config.loss == "sft" or config.advantage == "vtrace":
        return [np.zeros(s.num_trained) for s in kept]
    if config.advantage == "group":
        kept_advantages = group_advantages(returns)[trained]
        return [np.full(s.num_trained, a) for s, a in zip(kept, kept_advantages, strict=True)]
    whole = trie if trained.all() else build_trie([s.token_ids for s in sequences])
    by_token = tree_advantages(whole, returns)
    paths = [path for path, keep in zip(whole.paths, trained, strict=True) if keep]
    return [by_token[path][s.trained] for s, path in zip(kept, paths, strict=True)]


def _weights(groups: list[Group], config: ObjectiveConfig) -> Float64:
    """Weight of each sampled token of each sequence, one number a sequence."""
    lengths = [np.array([s.num_trained for s in group.sequences], np.float64) for group in groups]
    if not lengths:
        return np.empty(0)
    all_lengths = np.concatenate(lengths)
    if config.norm == "token":
        return np.full(len(all_lengths), 1 / all_lengths.sum())
    if config.norm == "rollout":
        return 1 / (len(all_lengths) * all_lengths)
    return np.concatenate([np.full(len(n), 1 / (len(lengths) * n.sum())) for n in lengths])


def _pack(groups: list[Group], scales: list[Float64], weights: Float64, config: ObjectiveConfig) -> Pack:
    sequences = [s for group in groups for s in group.sequences]
    trie = build_trie([s.token_ids for s in sequences])
    column_tokens = np.concatenate([p[s.trained] for p, s in zip(trie.paths, sequences, strict=True)])
    targets, column_targets = _distinct(column_tokens, trie.num_tokens)
    rows, target_rows = _distinct(trie.predecessor[targets], trie.num_tokens)
    lengths = [s.num_trained for s in sequences]
    versions = [s.policy_versions[s.trained] for s in sequences]
    return Pack(
        trie=trie,
        rows=_int64(rows),
        target_rows=_int64(target_rows),
        target_ids=_int64(trie.token_ids[targets]),
        target_tokens=_int64(targets),
        column_targets=_int64(column_targets),
        column_sequences=_int64(np.repeat(np.arange(len(sequences)), lengths)),
        behavior_logprobs=_float64(np.concatenate([s.behavior_logprobs[s.trained] for s in sequences])),
        advantages=_float64(np.concatenate([a for group in groups for a in group.advantages])),
        scales=_float64(np.concatenate(scales)),
        weights=_float64(np.repeat(weights, lengths)),
        oldest_version=_int64(np.concatenate([np.minimum.accumulate(v) for v in versions])),
        newest_version=_int64(np.concatenate([np.maximum.accumulate(v) for v in versions])),
        traces=tuple(_traces(groups, trie)) if config.needs_value_head else (),
    )


def _distinct(tokens: Int32, num_tokens: int) -> tuple[Int64, Int64]:
    """As `np.unique` with the inverse, of places below `num_tokens`, without sorting."""
    present = np.zeros(num_tokens, np.bool_)
    present[tokens] = True
    rank = np.cumsum(present) - 1
    return np.flatnonzero(present), rank[tokens]


def _traces(groups: list[Group], trie: Trie) -> list[GroupTrace]:
    traces: list[GroupTrace] = []
    first_sequence = 0
    for group in groups:
        paths = trie.paths[first_sequence : first_sequence + len(group.sequences)]
        tokens = np.empty(group.trie.num_tokens, np.int64)
        for own, path in zip(group.trie.paths, paths, strict=True):
            tokens[own] = path
        episodes = trie_episodes(group.trie, group.sequences)
        own_paths = zip(group.trie.paths, group.sequences, strict=True)
        traces.append(
            GroupTrace(
                episodes=episodes,
                tokens=tokens,
                column_tokens=np.concatenate([p[s.trained] for p, s in own_paths]).astype(np.int64),
                column_does=np.concatenate([s.does_after()[s.trained] for s in group.sequences]),
            )
        )
        first_sequence += len(group.sequences)
    return traces


def _tree_metrics(
    trees: Sequence[TrajectoryTree], scored: Sequence[Sequence[ScoredSequence]]
) -> dict[str, float]:
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


def _packing_metrics(tries: Sequence[Trie], max_tokens: int) -> dict[str, float]:
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


def _scale_metrics(scales: Float64, config: ObjectiveConfig) -> dict[str, float]:
    at_limit = (scales <= config.entropy_scale_min) | (scales >= config.entropy_scale_max)
    return {
        "entropy_scale/mean": float(scales.mean()),
        "entropy_scale/std": float(scales.std()),
        "entropy_scale/min": float(scales.min()),
        "entropy_scale/max": float(scales.max()),
        "entropy_scale/clipped_fraction": float(at_limit.mean()),
    }


def _int64(values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _float64(values: Float64 | npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))
