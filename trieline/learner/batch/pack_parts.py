"""A pack divided by the segments of its trie: each part is the loss of what one segment predicts.

A column belongs to the segment of the state in which its token was sampled: log-probability, entropy and
value then come from that segment's hidden states, and V-trace's targets from it and what hangs below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trieline.common.arrays import Int64
from trieline.learner.batch.pack import Pack
from trieline.learner.batch.segments import Segment


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackPart:
    """What of a pack one segment computes, as a pack whose rows are tokens of the segment."""

    pack: Pack
    """`trie` is the whole one, and so are the places in `target_tokens`; without `traces`."""
    targets: Int64
    """[U] which of the whole pack's targets these are."""
    columns: Int64
    """[M] which of its columns."""


def divide_pack(pack: Pack, segments: Sequence[Segment]) -> list[PackPart]:
    """One part a segment, some of them without columns."""
    owner = np.empty(pack.trie.num_tokens, np.int64)
    place = np.empty(pack.trie.num_tokens, np.int64)
    for i, segment in enumerate(segments):
        owner[segment.tokens] = i
        place[segment.tokens] = np.arange(len(segment.tokens))
    row_owner = owner[pack.rows]
    target_owner = row_owner[pack.target_rows]
    column_owner = target_owner[pack.column_targets]
    rows, row_rank = _divide(row_owner, len(segments))
    targets, target_rank = _divide(target_owner, len(segments))
    columns, _ = _divide(column_owner, len(segments))
    row_places = place[pack.rows]
    parts = []
    for i in range(len(segments)):
        r, u, m = rows[i], targets[i], columns[i]
        part = replace(
            pack,
            rows=row_places[r],
            row_masks=pack.row_masks[r],
            target_rows=row_rank[pack.target_rows[u]],
            target_ids=pack.target_ids[u],
            target_tokens=pack.target_tokens[u],
            column_targets=target_rank[pack.column_targets[m]],
            behavior_logprobs=pack.behavior_logprobs[m],
            advantages=pack.advantages[m],
            scales=pack.scales[m],
            weights=pack.weights[m],
            oldest_version=pack.oldest_version[m],
            newest_version=pack.newest_version[m],
            traces=(),
        )
        parts.append(PackPart(pack=part, targets=u, columns=m))
    return parts


def _divide(owner: Int64, count: int) -> tuple[list[Int64], Int64]:
    """The indices that each owner has, in order, and of each index its rank among those of its owner."""
    order = np.argsort(owner, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(owner, minlength=count))[:-1])
    rank = np.empty(len(owner), np.int64)
    for part in parts:
        rank[part] = np.arange(len(part))
    return parts, rank
