"""A pack: one forward pass over a forest of tries, and columns of its sampled tokens.

A token that several sequences share stands in the columns once for each of them, so that what is written on
columns knows nothing of the trie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trieline.common.arrays import Float64, Int32, Int64
from trieline.learner.batch.groups import Group
from trieline.learner.batch.masks import MaskTable
from trieline.learner.batch.sequences import ScoredSequence
from trieline.learner.batch.states import TrieEpisodes, trie_episodes
from trieline.learner.batch.trie import Trie, build_trie
from trieline.learner.objective_config import ObjectiveConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupTrace:
    """One group of a pack, for V-trace: its episodes, where its n states are, and its m columns."""

    episodes: TrieEpisodes
    tokens: Int64
    """[n] place of each of its states in the pack's trie."""
    column_tokens: Int64
    """[m] the state that each column's token ends in."""
    column_endings: Int64
    """[m] what the column's sequence does after it: a row of the tables of `states`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """One forward pass: N trie tokens, R distributions after some of them, of which U tokens; M columns."""

    trie: Trie
    rows: Int64
    """[R] trie tokens whose next token was sampled: each of them once for each mask that was used there."""
    row_masks: Int64
    """[R] the mask of each, as an index into `masks`; -1: none."""
    masks: MaskTable | None
    """None: nothing was sampled under a mask."""
    target_rows: Int64
    """[U] index into `rows`."""
    target_ids: Int64
    """[U] the sampled token."""
    target_tokens: Int64
    """[U] its place in the trie."""
    column_targets: Int64
    """[M] index into the U targets: the gather that makes sequences of the trie."""
    behavior_logprobs: Float64
    """[M] nats"""
    advantages: Float64
    """[M] not yet scaled; zeros where the model's values are needed."""
    scales: Float64
    """[M] entropy-aware scale of the advantage."""
    weights: Float64
    """[M] weight of the token's loss in the whole batch's; they sum to 1 over all packs."""
    oldest_version: Int64
    newest_version: Int64
    """[M] over the sampled tokens of the sequence up to this one."""
    traces: tuple[GroupTrace, ...]
    """Empty unless the advantage is `vtrace`; the columns of the groups follow each other in this order."""


def make_pack(groups: list[Group], scales: list[Float64], weights: Float64, config: ObjectiveConfig) -> Pack:
    """Merge `groups` into one trie; `scales` (an array each), `weights` (a number each) of the sequences."""
    sequences = [s for group in groups for s in group.sequences]
    trie = build_trie([s.keys for s in sequences])
    predicted = predicted_tokens(trie, sequences)
    lengths = [s.num_trained for s in sequences]
    versions = [s.policy_versions[s.trained] for s in sequences]
    return Pack(
        trie=trie,
        rows=predicted.rows,
        row_masks=predicted.row_masks,
        masks=predicted.masks,
        target_rows=predicted.target_rows,
        target_ids=trie.token_ids[predicted.tokens].astype(np.int64),
        target_tokens=predicted.tokens,
        column_targets=predicted.column_targets,
        behavior_logprobs=np.concatenate([s.behavior_logprobs[s.trained] for s in sequences]).astype(
            np.float64
        ),
        advantages=np.concatenate([a for group in groups for a in group.advantages]),
        scales=np.concatenate(scales),
        weights=np.repeat(weights, lengths),
        oldest_version=np.concatenate([np.minimum.accumulate(v) for v in versions]).astype(np.int64),
        newest_version=np.concatenate([np.maximum.accumulate(v) for v in versions]).astype(np.int64),
        traces=tuple(_traces(groups, trie)) if config.needs_value_head else (),
    )


class Predicted(NamedTuple):
    """The sampled tokens of a trie and the distributions that they are from, as in `Pack`."""

    tokens: Int64
    """[U] places in the trie."""
    rows: Int64
    row_masks: Int64
    masks: MaskTable | None
    target_rows: Int64
    column_targets: Int64


def predicted_tokens(trie: Trie, sequences: Sequence[ScoredSequence]) -> Predicted:
    """What `sequences`, the paths of `trie`, sampled."""
    column_tokens = np.concatenate([p[s.trained] for p, s in zip(trie.paths, sequences, strict=True)])
    tokens, column_targets = distinct(column_tokens, trie.num_tokens)
    masks = next((s.masks for s in sequences if s.masks is not None), None)
    if masks is None:
        rows, target_rows = distinct(trie.predecessor[tokens], trie.num_tokens)
        return Predicted(tokens, rows, np.full(len(rows), -1), None, target_rows, column_targets)
    token_masks = np.full(trie.num_tokens, -1, np.int64)
    for path, sequence in zip(trie.paths, sequences, strict=True):
        if sequence.mask_index is not None:
            token_masks[path] = sequence.mask_index
    # Siblings may come from one state under different masks.
    count = len(masks.runs) + 1
    states = trie.predecessor[tokens].astype(np.int64) * count + token_masks[tokens] + 1
    found, target_rows = np.unique(states, return_inverse=True)
    return Predicted(tokens, found // count, found % count - 1, masks, target_rows, column_targets)


def distinct(tokens: Int32, num_tokens: int) -> tuple[Int64, Int64]:
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
        episodes = trie_episodes(group.trie, group.sequences)
        tokens = np.empty(episodes.num_states, np.int64)
        for own, path in zip(episodes.paths, paths, strict=True):
            tokens[own] = path
        trained = [s.trained for s in group.sequences]
        by_sequence = zip(episodes.paths, episodes.endings, trained, strict=True)
        columns = [(path[own], ending[own]) for path, ending, own in by_sequence]
        traces.append(
            GroupTrace(
                episodes=episodes,
                tokens=tokens,
                column_tokens=np.concatenate([path for path, _ in columns]),
                column_endings=np.concatenate([ending for _, ending in columns]),
            )
        )
        first_sequence += len(group.sequences)
    return traces


def empty_pack() -> Pack:
    """Two tokens and no column: every part of the model computes, and nothing comes of it.

    For a rank of the learner that has no pack left while the others compute theirs.
    """
    ints, floats = np.empty(0, np.int64), np.empty(0, np.float64)
    return Pack(
        trie=build_trie([np.zeros(2, np.int32)]),
        rows=np.zeros(1, np.int64),
        row_masks=np.full(1, -1),
        masks=None,
        target_rows=np.zeros(1, np.int64),
        target_ids=np.zeros(1, np.int64),
        target_tokens=np.ones(1, np.int64),
        column_targets=ints,
        behavior_logprobs=floats,
        advantages=floats,
        scales=floats,
        weights=floats,
        oldest_version=ints,
        newest_version=ints,
        traces=(),
    )
