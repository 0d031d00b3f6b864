"""One forward over packed tokens, and what the attention of all its layers needs to know."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A run of one row's tokens, positions `start` to `stop`, that is read in one go."""

    row: int
    start: int
    stop: int
    trunk: int = -1
    """The trunk that holds the positions below `base`; -1: none."""
    base: int = 0


@dataclass(kw_only=True, slots=True)
class Step:
    """First one token for each of M rows (the singles), then the tokens of the chunks; T in all, unpadded."""

    token_ids: Tensor
    """int64 [T]"""
    positions: Tensor
    """int64 [T] places in the sequences."""
    rows: Tensor
    """int64 [T] the row each token belongs to."""
    places: Tensor
    """int64 [T] place in the row; the positions below `position - place` are in a trunk."""
    num_singles: int
    """The singles' rows rise."""
    single_trunks: Index
    """[M] trunk of each single, -1: none."""
    chunks: tuple[Chunk, ...]
    sample_at: Tensor
    """int64 [S] tokens of the step after which the next token is sampled."""
    _plan: "AttentionPlan | None" = field(default=None, init=False)

    def plan(self, heads: int, query_heads: int, dtype: torch.dtype) -> "AttentionPlan":
        """The plan, made once for all layers."""
        if self._plan is None:
            self._plan = _make_plan(self, Heads(heads, query_heads), dtype)
        return self._plan


class Heads(NamedTuple):
    """Queries share key-value heads: query head q looks at head q // (queries / heads)."""

    heads: int
    queries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPlan:
    """Two padded batches for the singles, and the masks of the chunks."""

    own: "Batch | None"
    """Every single over its own row: entry = row. None without singles."""
    trunks: "Batch | None"
    """The singles with a trunk over it: entry = trunk. None without any."""
    with_trunk: Tensor | None
    """int64 [W] which singles have a trunk; None if all have."""
    chunk_masks: list[Tensor | None]
    """Per chunk bool [stop - start, stop], or None where plain causal attention is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """W singles laid out in E entries of P places; an entry looks at the first keys of one row of a store.

    The Q / H queries that share a key-value head stand there as its tokens, A = P Q / H in all: each key is
    read once.
    """

    gather: Tensor | None
    """int64 [E * H * A] which of the singles' M * Q queries stands there (places that are not needed repeat
    one). None: all in their order."""
    scatter: Tensor
    """int64 [W * Q] where each query's result is among E * A * H."""
    length: int
    """Keys of the longest entry."""
    mask: Tensor
    """[E, 1, A, length] 0 where a key is seen, -inf where not."""


def _make_plan(step: Step, heads: Heads, dtype: torch.dtype) -> AttentionPlan:
    masks = [_chunk_mask(chunk) for chunk in step.chunks]
    count = step.num_singles
    if not count:
        return AttentionPlan(own=None, trunks=None, with_trunk=None, chunk_masks=masks)
    rows, places = step.rows[:count].numpy(), step.places[:count].numpy()
    own = _batch(count, np.arange(count), rows, places + 1, heads, dtype)
    chosen = np.flatnonzero(step.single_trunks >= 0)
    trunks = with_trunk = None
    if len(chosen):
        bases = step.positions[:count].numpy() - places
        trunks = _batch(count, chosen, step.single_trunks[chosen], bases[chosen], heads, dtype)
        with_trunk = None if len(chosen) == count else torch.from_numpy(chosen)
    return AttentionPlan(own=own, trunks=trunks, with_trunk=with_trunk, chunk_masks=masks)


def _batch(
    total: int, singles: Index, entries: Index, lengths: Index, heads: Heads, dtype: torch.dtype
) -> Batch:
    """Put `singles[i]` (out of `total`) into entry `entries[i]`, which looks at `lengths[i]` keys."""
    members = np.bincount(entries)
    width = int(members.max())
    group = heads.queries // heads.heads
    order = np.argsort(entries, kind="stable")
    rank = np.empty(len(entries), np.int64)
    rank[order] = np.arange(len(entries)) - np.repeat(members.cumsum() - members, members)
    stands = np.full((len(members), width), singles[0])
    stands[entries, rank] = singles
    query = np.arange(heads.queries).reshape(heads.heads, 1, group)
    gather = (stands[:, None, :, None] * heads.queries + query).reshape(-1)
    in_order = len(gather) == total * heads.queries and bool((gather == np.arange(len(gather))).all())
    place = (entries * width + rank)[:, None] * heads.queries
    scatter = place + (np.arange(group) * heads.heads + np.arange(heads.heads)[:, None]).reshape(-1)
    # An entry without singles looks at one key, whatever it is; nothing of it is used.
    seen = np.ones(len(members), np.int64)
    seen[entries] = lengths
    length = int(lengths.max())
    hidden = torch.from_numpy(np.arange(length) >= seen[:, None])
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
    return Batch(
        gather=None if in_order else torch.from_numpy(gather),
        scatter=torch.from_numpy(scatter.reshape(-1)),
        length=length,
        mask=mask[:, None, None, :].expand(-1, 1, width * group, length),
    )


def _chunk_mask(chunk: Chunk) -> Tensor | None:
    if chunk.start == 0:
        return None
    return torch.ones(chunk.stop - chunk.start, chunk.stop, dtype=torch.bool).tril_(chunk.start)
