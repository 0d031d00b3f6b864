"""Next tokens on the device where the logits are, as `batching.sampling` says; all sums in float64.

Letters: R rows, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from trieline.common.arrays import Bool, Int32, Int64
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled, uniforms
from trieline.learner.policy_server.errors import NonFiniteLogitsError
from trieline.wire.token_masks import runs_of

NUMBERS_AT_ONCE = 1 << 24
"""Logits that are drawn from at a time: 128 MiB in float64, and some of these are there at once."""
SMALLEST_EXPONENT = -745.0
"""Below it, e^x is 0 in float64; what is masked has no weight, but 0 x inf would be NaN."""


@torch.inference_mode()
def sample_on_device(logits_RV: Tensor, how: RowSampling) -> Sampled:
    """Draw one token a row.

    Raises:
        NonFiniteLogitsError: a row has NaN or infinity.
    """
    at_once = max(1, NUMBERS_AT_ONCE // logits_RV.shape[1])
    masks: dict[int, Int32] = {}
    parts = [
        _draw(logits_RV[start : start + at_once], how, start, masks)
        for start in range(0, len(logits_RV), at_once)
    ]
    # The one place that waits for the device.
    token_ids, logprobs, entropies = torch.cat(parts, 1).cpu().numpy()
    if np.isnan(logprobs).any():
        msg = "the model's logits hold NaN or infinity"
        raise NonFiniteLogitsError(msg)
    return Sampled(
        token_ids=token_ids.astype(np.int64),
        logprobs=logprobs.astype(np.float32),
        entropies=entropies.astype(np.float32),
        masks=masks,
    )


def _draw(logits_RV: Tensor, how: RowSampling, start: int, masks: dict[int, Int32]) -> Tensor:
    """[3, R] token ids, log-probabilities (NaN: a broken row) and entropies, of the rows from `start`."""
    rows = slice(start, start + len(logits_RV))
    device = logits_RV.device
    is_greedy = how.temperature[rows] == 0
    temperature, chance, greedy = torch.from_numpy(
        np.stack(
            [
                how.divisors[rows],
                uniforms(how.seed[rows], how.position[rows]),
                is_greedy,
            ]
        )
    ).to(device)
    x_RV = logits_RV.double()
    _allow_only(x_RV, how, start)
    x_RV = (x_RV - x_RV.amax(1, keepdim=True)) / temperature[:, None]
    is_cut = how.drops(logits_RV.shape[1])[rows]
    if is_cut.any():
        _cut(x_RV, np.flatnonzero(is_cut), how, start)
    _tell(x_RV, is_cut, how, start, masks)
    weights_RV = x_RV.exp()
    passed_RV = weights_RV.cumsum(1)
    total = passed_RV[:, -1].contiguous()
    drawn = torch.searchsorted(passed_RV, (chance * total)[:, None], right=True)
    # If rounding lifts the target to the total, the last token that has any weight.
    last = torch.searchsorted(passed_RV, total[:, None])
    tokens = torch.where(greedy[:, None] > 0, x_RV.argmax(1, keepdim=True), torch.minimum(drawn, last))
    tokens = tokens.clamp(max=x_RV.shape[1] - 1)  # of a row that is broken
    log_total = total.log()
    logprobs = (x_RV.gather(1, tokens)[:, 0] - log_total).clamp(max=0)
    mean = (weights_RV * x_RV.clamp(min=SMALLEST_EXPONENT)).sum(1) / total
    broken = ~total.isfinite()
    return torch.stack(
        [tokens[:, 0].double(), logprobs.masked_fill(broken, torch.nan), (log_total - mean).clamp(min=0)]
    )


def _allow_only(x_RV: Tensor, how: RowSampling, start: int) -> None:
    """Leave in place what the grammars allow."""
    of_these = enumerate(how.allowed[start : start + len(x_RV)])
    limited = [(row, allowed) for row, allowed in of_these if allowed is not None]
    if limited:
        rows = torch.tensor([row for row, _ in limited], device=x_RV.device)
        allowed = torch.from_numpy(np.stack([allowed for _, allowed in limited])).to(x_RV.device)
        x_RV[rows] = x_RV[rows].masked_fill(~allowed, -torch.inf)


def _cut(x_RV: Tensor, rows: Int64, how: RowSampling, start: int) -> None:
    """Keep in place the `top_k` largest alone, and of those the fewest that hold `top_p` of their mass."""
    device, vocab = x_RV.device, x_RV.shape[1]
    top_k = how.top_k[start + rows]
    most = torch.from_numpy(np.where(top_k > 0, np.minimum(top_k, vocab), vocab)).to(device)
    top_p = torch.from_numpy(how.top_p[start + rows]).to(device)
    at = torch.from_numpy(rows).to(device)
    sorted_RV, order_RV = x_RV[at].sort(1, descending=True)
    counted = torch.arange(vocab, device=device) < most[:, None]
    mass_RV = sorted_RV.exp() * counted
    before_RV = mass_RV.cumsum(1) - mass_RV
    kept = counted & (before_RV < top_p[:, None] * mass_RV.sum(1, keepdim=True))
    kept[:, 0] = True
    x_RV[at] = torch.full_like(sorted_RV, -torch.inf).scatter(
        1, order_RV, sorted_RV.masked_fill(~kept, -torch.inf)
    )


def _tell(
    x_RV: Tensor,
    is_cut: Bool,
    how: RowSampling,
    start: int,
    masks: dict[int, Int32],
) -> None:
    """The masks of the rows that have a grammar or ask for theirs, where not all tokens are left."""
    for row in range(len(x_RV)):
        allowed = how.allowed[start + row] if how.allowed else None
        if allowed is None and not (is_cut[row] and how.tell_masks and how.tell_masks[start + row]):
            continue
        left = (x_RV[row] > -torch.inf).cpu().numpy() if is_cut[row] or allowed is None else allowed
        if not left.all():
            masks[start + row] = runs_of(left)
