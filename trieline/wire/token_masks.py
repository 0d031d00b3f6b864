"""Masks: the tokens that could be sampled at all, as a grammar or a list of tool names leaves them.

A mask is written as runs of token ids: of each the first id and the one after its last, ascending, no two of
them touching. `[3, 5, 9, 10]` allows 3, 4 and 9. So a mask that forbids a few tokens is as short as one that
allows a few, and equal masks are equal arrays.
"""

from itertools import pairwise

import numpy as np

from trieline.common.arrays import Bool, Int32, Int64
from trieline.wire.errors import TreeError


def runs_of(allowed: Bool) -> Int32:
    """[2 R] the runs of a mask that is given as one flag for each of the vocabulary's V tokens."""
    padded = np.concatenate([[False], allowed, [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).astype(np.int32)


def expect_masks(
    mask_index: Int32,
    mask_offsets: Int32,
    mask_runs: Int32,
    *,
    token_ids: Int32,
    by_policy: Bool,
    vocab_size: int | None,
) -> None:
    """Raise TreeError unless these columns of a tree are masks, each used, under which its tokens came."""
    offsets, count = mask_offsets.astype(np.int64), len(mask_offsets) - 1
    if count < 1 or offsets[0] != 0 or 2 * offsets[-1] != len(mask_runs) or (np.diff(offsets) < 1).any():
        msg = (
            f"expected mask_offsets to rise strictly from 0 to half of the {len(mask_runs)} mask_runs, "
            f"got {mask_offsets.tolist()[:16]}"
        )
        raise TreeError(msg)
    starts, stops = mask_runs[0::2].astype(np.int64), mask_runs[1::2].astype(np.int64)
    mask_of_run = np.repeat(np.arange(count), np.diff(offsets))
    touches = (mask_of_run[1:] == mask_of_run[:-1]) & (starts[1:] <= stops[:-1])
    beyond = vocab_size is not None and stops.max() > vocab_size
    if starts.min() < 0 or (starts >= stops).any() or touches.any() or beyond:
        limit, found = vocab_size or "vocabulary size", mask_runs.tolist()[:16]
        msg = f"expected mask_runs that ascend without touching in [0, {limit}], got {found}"
        raise TreeError(msg)
    if len({mask_runs[2 * a : 2 * b].tobytes() for a, b in pairwise(offsets.tolist())}) < count:
        msg = f"expected {count} different masks, got the same one again"
        raise TreeError(msg)
    if len(mask_index) == 0 or mask_index.min() < -1 or (mask_index[~by_policy] != -1).any():
        msg = "expected mask_index >= -1, and -1 on context, got another"
        raise TreeError(msg)
    used = np.unique(mask_index[mask_index >= 0])
    if not np.array_equal(used, np.arange(count)):
        msg = f"expected mask_index to use each of {count} masks, got {used.tolist()[:16]}"
        raise TreeError(msg)
    _expect_allowed(mask_index, token_ids, mask_of_run, starts, stops)


def _expect_allowed(
    mask_index: Int32, token_ids: Int32, mask_of_run: Int64, starts: Int64, stops: Int64
) -> None:
    masked = np.flatnonzero(mask_index >= 0)
    masks, tokens = mask_index[masked].astype(np.int64), token_ids[masked].astype(np.int64)
    # Runs are in the order of (mask, first token): the last one that begins no later is the only candidate.
    run = np.searchsorted((mask_of_run << 32) + starts, (masks << 32) + tokens, side="right") - 1
    wrong = (run < 0) | (mask_of_run[run] != masks) | (tokens >= stops[run])
    if wrong.any():
        first = int(wrong.argmax())
        msg = f"expected tokens that their mask allows, got {tokens[first]} under mask {masks[first]}"
        raise TreeError(msg)
