"""Next tokens on the CPU, as `batching.sampling` says. Letters: R rows, V vocabulary."""

import numpy as np
import torch
from torch import Tensor

from trieline.common.arrays import Int32
from trieline.kernels.token_draw import BROKEN, Drawn, draw_tokens
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled, uniforms
from trieline.learner.policy_server.errors import NonFiniteLogitsError
from trieline.wire.token_masks import runs_of

# top-p is first tried on this many of the largest logits; sorting the whole vocabulary takes far longer.
TOP_CANDIDATES = 1024


@torch.inference_mode()
def sample(logits_RV: Tensor, how: RowSampling) -> Sampled:
    """Draw one token a row.

    Raises:
        NonFiniteLogitsError: a row has NaN or infinity.
    """
    greedy = how.temperature == 0
    temperatures = how.divisors
    chance = uniforms(how.seed, how.position)
    is_dropped = how.drops(logits_RV.shape[1])
    is_cut = is_dropped.copy()
    is_cut[[row for row, allowed in enumerate(how.allowed) if allowed is not None]] = True
    masks: dict[int, Int32] = {}
    drawn = Drawn(np.empty(len(chance), np.int64), np.empty(len(chance)), np.empty(len(chance)))
    for rows, are_cut in ((np.flatnonzero(~is_cut), False), (np.flatnonzero(is_cut), True)):
        if len(rows) == 0:
            continue
        rows_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]
        if are_cut:
            rows_RV = rows_RV.to(torch.float32, copy=True)
            for logits_V, row in zip(rows_RV, rows.tolist(), strict=True):
                _cut(logits_V, row, how, temperatures[row] if is_dropped[row] else None, masks)
        found = draw_tokens(rows_RV.contiguous(), temperatures[rows], chance[rows], greedy[rows])
        for column, values in zip(drawn, found, strict=True):
            column[rows] = values
    if (drawn.token_ids == BROKEN).any():
        msg = "the model's logits hold NaN or infinity"
        raise NonFiniteLogitsError(msg)
    return Sampled(
        token_ids=drawn.token_ids,
        logprobs=drawn.logprobs.astype(np.float32),
        entropies=drawn.entropies.astype(np.float32),
        masks=masks,
    )


def _cut(
    logits_V: Tensor, row: int, how: RowSampling, temperature: float | None, masks: dict[int, Int32]
) -> None:
    """Leave in place what a row may take. `temperature`: of `top_k` and `top_p`; None: these don't count."""
    allowed = how.allowed[row] if how.allowed else None
    # By numpy: threads of torch gain nothing on one row, and wait for each other.
    values = logits_V.numpy()
    if allowed is not None:
        np.copyto(values, -np.inf, where=~allowed)
    if temperature is not None:
        _drop(logits_V, temperature, int(how.top_k[row]), float(how.top_p[row]))
    if allowed is None and not (how.tell_masks and how.tell_masks[row]):
        return
    left = allowed
    if left is None or temperature is not None:
        left = values > -np.inf
    if not left.all():
        masks[row] = runs_of(left)


def _drop(logits_V: Tensor, temperature: float, top_k: int, top_p: float) -> None:
    """Keep in place the `top_k` largest alone, and of those the fewest that hold `top_p` of their mass."""
    vocab = len(logits_V)
    count = min(top_k or vocab, vocab)
    largest = logits_V.max()
    # A few candidates first, where the mass of all is known without sorting them.
    total = float(((logits_V - largest) / temperature).exp().sum()) if count == vocab else None
    for tried in (min(vocab, TOP_CANDIDATES), vocab) if count == vocab else (count,):
        values, order = logits_V.topk(tried)
        mass = ((values.double() - largest) / temperature).exp()
        before = mass.cumsum(0) - mass
        kept = before < top_p * (mass.sum() if total is None else total)
        if tried == count or not kept[-1]:
            break
    kept[0] = True
    logits_V.fill_(-torch.inf)
    logits_V[order[kept]] = values[kept]
