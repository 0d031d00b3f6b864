"""Which groups share a forward pass: bins of at most `max_tokens` trie tokens, a group never divided.

Groups of one pack are merged into one forest, so a prefix that several tasks share (a system prompt) is
computed once a pack. A group larger than `max_tokens` gets a pack of its own, whole.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from trieline.actors.wire.tree import Int32
from trieline.learner.trie import common_prefix_length

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class _Bin:
    groups: list[int] = field(default_factory=list)
    tokens: int = 0


def pack_groups(sizes: Sequence[int], prompts: Sequence[Int32], *, max_tokens: int) -> list[list[int]]:
    """Distribute groups over bins, largest first, each into the bin with which it shares most and fits.

    `sizes[g]` is the number of unique tokens of group g, `prompts[g]` any sequence of it: what two of them
    have in common is counted once. Returns the groups of each bin; both orders are deterministic.
    """
    bins: list[_Bin] = []
    for g in sorted(range(len(sizes)), key=lambda g: -sizes[g]):
        if sizes[g] > max_tokens:
            logger.warning("a trie of %d tokens exceeds max_tokens = %d: it runs alone", sizes[g], max_tokens)
        shared = [max(common_prefix_length(prompts[g], prompts[h]) for h in b.groups) for b in bins]
        fitting = [i for i, b in enumerate(bins) if b.tokens + sizes[g] - shared[i] <= max_tokens]
        if fitting:
            i = max(fitting, key=lambda i: (shared[i], -i))
            bins[i].tokens += sizes[g] - shared[i]
        else:
            i = len(bins)
            bins.append(_Bin(tokens=sizes[g]))
        bins[i].groups.append(g)
    return [sorted(b.groups) for b in bins]
