"""A pack divided by the segments of its trie: each part is the loss of what one segment predicts.

A column belongs to the segment of the state in which its token was sampled: log-probability, entropy and
value then come from that segment's hidden states, and V-trace's targets from it and what hangs below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trieline.learner.batch import Pack
from trieline.learner.objective import PackOutputs, ValueTargets, column_targets, start_vtrace
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.segments import Int64, Segment


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackPart:
    """What of a pack one segment computes, as a pack whose rows are tokens of the segment."""

    pack: Pack
    """`trie` is the whole one, and so are the places in `target_tokens`; without `traces`."""
    targets: Tensor
    """[U] int64, which of the whole pack's targets these are."""
    columns: Int64
    """[M] which of its columns."""


def divide_pack(pack: Pack, segments: Sequence[Segment]) -> list[PackPart]:
    """One part a segment, some of them without columns."""
    owner = np.empty(pack.trie.num_tokens, np.int64)
    place = np.empty(pack.trie.num_tokens, np.int64)
    for i, segment in enumerate(segments):
        owner[segment.tokens] = i
        place[segment.tokens] = np.arange(len(segment.tokens))
    row_owner = owner[pack.rows.numpy()]
    target_owner = row_owner[pack.target_rows.numpy()]
    column_owner = target_owner[pack.column_targets.numpy()]
    rows, row_rank = _divide(row_owner, len(segments))
    targets, target_rank = _divide(target_owner, len(segments))
    columns, _ = _divide(column_owner, len(segments))
    row_places = torch.from_numpy(place)[pack.rows]
    parts = []
    for i in range(len(segments)):
        r, u, m = (torch.from_numpy(index[i]) for index in (rows, targets, columns))
        part = replace(
            pack,
            rows=row_places[r],
            target_rows=row_rank[pack.target_rows[u]],
            target_ids=pack.target_ids[u],
            target_tokens=pack.target_tokens[u],
            column_targets=target_rank[pack.column_targets[m]],
            column_sequences=pack.column_sequences[m],
            behavior_logprobs=pack.behavior_logprobs[m],
            advantages=pack.advantages[m],
            scales=pack.scales[m],
            weights=pack.weights[m],
            oldest_version=pack.oldest_version[m],
            newest_version=pack.newest_version[m],
            traces=(),
        )
        parts.append(PackPart(pack=part, targets=u, columns=columns[i]))
    return parts


class PartedVTrace:
    """V-trace of a pack of one group, part by part, each after the parts that hang below it."""

    def __init__(self, pack: Pack, config: ObjectiveConfig) -> None:
        assert len(pack.traces) == 1, "only a single group can exceed the budget"
        self._trace = pack.traces[0]
        # The group's own trie has the same sequences, and so the same order.
        assert self._trace.episodes.trie.num_tokens == pack.trie.num_tokens
        self._sweep = start_vtrace(self._trace, config)
        # The tokens after each state, all states in order.
        self._followers = np.argsort(pack.trie.predecessor, kind="stable")
        self._states = pack.trie.predecessor[self._followers]
        self._logprobs = np.zeros(pack.trie.num_tokens)

    def take(self, segment: Segment, part: PackPart, outputs: PackOutputs) -> ValueTargets:
        """Go on to the states of `segment`; the targets of the columns of its part."""
        assert outputs.values is not None
        logprobs = outputs.logprobs.detach().double().cpu().numpy()
        self._logprobs[part.pack.target_tokens.numpy()] = logprobs
        first, stop = np.searchsorted(self._states, [segment.tokens, segment.tokens + 1])
        followers = np.concatenate([self._followers[a:b] for a, b in zip(first, stop, strict=True)])
        values = outputs.values.detach().double().cpu().numpy()
        self._sweep.take(segment.tokens, values, followers, self._logprobs[followers])
        return column_targets(self._sweep, self._trace, part.columns)


def _divide(owner: Int64, count: int) -> tuple[list[Int64], Tensor]:
    """The indices that each owner has, in order, and of each index its rank among those of its owner."""
    order = np.argsort(owner, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(owner, minlength=count))[:-1])
    rank = np.empty(len(owner), np.int64)
    for part in parts:
        rank[part] = np.arange(len(part))
    return parts, torch.from_numpy(rank)
