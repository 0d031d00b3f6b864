"""Log-probabilities of tokens and entropies, from hidden states and the output weight, without all logits.

With l[r] = c(hidden[r] @ weight.T) / temperature and lse[r] = logsumexp(l[r]), where c(x) = x, or
c(x) = softcap * tanh(x / softcap) for models that cap their logits:

    logprob[m] = l[row[m], target[m]] - lse[row[m]]
    entropy[r] = lse[r] - sum_v p[r, v] l[r, v],   p[r] = softmax(l[r])
    d/dl[r, v] = sum over m with row[m] = r of g_logprob[m] (1[v = target[m]] - p[r, v])
                 - g_entropy[r] p[r, v] (l[r, v] - lse[r] + entropy[r])

Where a mask says which tokens row r may take, lse, p and the sum over v go over these alone: what is masked
has probability 0 and no gradient. The log-probability of a target that its row's mask forbids has no meaning.

One row may have several targets (the children of a trie token). The product with the weight runs in the
precision of its operands; the softmax in at least float32. `reference_token_logprob` is the specification; on
a GPU `gpu/token_logprob_op` does the work.
Shapes: R rows, M targets, D hidden size, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trieline.kernels.gpu.availability import takes_triton
from trieline.kernels.row_masks import RowMasks

CHUNK_ELEMENTS = 1 << 18
"""Logits whose softmax is worked on at once, so that the float32 copies stay in the cache. Measured at a
vocabulary of 49,152: the elementwise part of the backward takes a quarter of what 64 rows at once take."""
DEFAULT_LOGITS_BUDGET = 1 << 30
"""Bytes of logits that the forward may keep for the backward, which computes the others again."""


def token_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    logits_budget: int = DEFAULT_LOGITS_BUDGET,
    masks: RowMasks | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [M] of `targets` [M] at `rows` [M] of `hidden` [R, D], and entropies [R], in nats.

    `weight` is [V, D]. Results are float32, or float64 for float64 operands; memory is O(budget + R + M).
    On a GPU nothing is kept for the backward: the budget is that of the logits in memory at a time. Capped
    logits, and rows of which some have masks, take the plain path there too.
    """
    if masks is not None and len(masks.index) != len(hidden):
        msg = f"expected masks of {len(hidden)} rows, got them of {len(masks.index)}"
        raise ValueError(msg)
    if masks is None and not softcap and takes_triton(hidden.device, hidden.dtype):
        # Not at the top: without Triton this module must import.
        from trieline.kernels.gpu.token_logprob_op import check_operands, token_logprob_op

        check_operands(hidden, weight, rows, targets, temperature)
        logprobs, entropies, _ = token_logprob_op(
            hidden, weight, rows, targets, float(temperature), int(logits_budget)
        )
        return logprobs, entropies
    logprobs, entropies = _TokenLogprob.apply(  # type: ignore[no-untyped-call]
        hidden, weight, rows, targets, float(temperature), float(softcap), int(logits_budget), masks
    )
    return logprobs, entropies


def reference_token_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    masks: RowMasks | None = None,
) -> tuple[Tensor, Tensor]:
    """The formula of this module with all logits at once. Same shapes as `token_logprob`."""
    logits = functional.linear(hidden, weight)
    capped = cap_logits(logits.to(softmax_dtype(logits.dtype)), softcap)
    forbidden = _forbidden(masks, 0, len(hidden), weight)
    scaled = _filled(capped / temperature, forbidden, -torch.inf)
    logprobs = torch.log_softmax(scaled, dim=-1)
    return logprobs[rows, targets], -(logprobs.exp() * _filled(logprobs, forbidden, 0.0)).sum(-1)


def cap_logits(logits: Tensor, softcap: float) -> Tensor:
    """softcap * tanh(logits / softcap); with 0 the logits themselves."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of logarithms and sums over logits of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _forbidden(masks: RowMasks | None, first: int, stop: int, weight: Tensor) -> Tensor | None:
    return None if masks is None else masks.forbidden(first, stop, len(weight), weight.device)


def _filled(values: Tensor, forbidden: Tensor | None, value: float) -> Tensor:
    return values if forbidden is None else values.masked_fill(forbidden, value)


class _TokenLogprob(torch.autograd.Function):
    """Keeps logits, in their own precision, for as many rows as the budget allows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        rows: Tensor,
        targets: Tensor,
        temperature: float,
        softcap: float,
        logits_budget: int,
        masks: RowMasks | None,
    ) -> tuple[Tensor, Tensor]:
        num_rows, num_targets = len(hidden), len(targets)
        by_row = torch.argsort(rows, stable=True)
        sorted_rows, sorted_targets = rows[by_row], targets[by_row]
        dtype = softmax_dtype(hidden.dtype)
        entropies = hidden.new_empty(num_rows, dtype=dtype)
        normalisers = hidden.new_empty(num_rows, dtype=dtype)
        sorted_logprobs = hidden.new_empty(num_targets, dtype=dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        kept: list[Tensor] = []
        rows_per_group = max(1, logits_budget // (weight.shape[0] * hidden.element_size()))
        for start in range(0, num_rows, rows_per_group):
            group = slice(start, min(start + rows_per_group, num_rows))
            logits = functional.linear(hidden[group], weight)
            for lo, hi in _row_chunks(group.start, group.stop, len(weight)):
                scaled = cap_logits(logits[lo - start : hi - start].to(dtype), softcap)
                if temperature != 1.0:
                    scaled = scaled / temperature
                lse, entropy = _lse_and_entropy(scaled, _forbidden(masks, lo, hi, weight))
                normalisers[lo:hi], entropies[lo:hi] = lse, entropy
                first, last = torch.searchsorted(
                    sorted_rows, torch.tensor([lo, hi], device=rows.device)
                ).tolist()
                chunk_rows = sorted_rows[first:last] - lo
                chosen = scaled[chunk_rows, sorted_targets[first:last]]
                sorted_logprobs[first:last] = chosen - lse[chunk_rows]
            if needs_grad and start == 0:
                kept.append(logits)
        logprobs = torch.empty_like(sorted_logprobs)
        logprobs[by_row] = sorted_logprobs
        ctx.save_for_backward(hidden, weight, sorted_rows, sorted_targets, by_row, normalisers, entropies)
        # Not among the saved tensors, because the backward overwrites it.
        ctx.kept_logits = kept
        ctx.temperature, ctx.softcap, ctx.rows_per_group = temperature, softcap, rows_per_group
        ctx.masks = masks
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, rows, targets, by_row, normalisers, entropies = ctx.saved_tensors
        grad_logprobs = grad_logprobs[by_row]
        grad_hidden, grad_weight = torch.empty_like(hidden), None
        for start in range(0, len(hidden), ctx.rows_per_group):
            stop = min(start + ctx.rows_per_group, len(hidden))
            # A second backward through the same graph finds nothing kept, and computes the logits again.
            logits = ctx.kept_logits.pop() if start == 0 and ctx.kept_logits else None
            if logits is None:
                logits = functional.linear(hidden[start:stop], weight)
            for lo, hi in _row_chunks(start, stop, len(weight)):
                first, last = torch.searchsorted(rows, torch.tensor([lo, hi], device=rows.device)).tolist()
                _logits_gradient_(
                    logits[lo - start : hi - start],
                    rows[first:last] - lo,
                    targets[first:last],
                    normalisers[lo:hi],
                    entropies[lo:hi],
                    grad_logprobs[first:last],
                    grad_entropies[lo:hi],
                    ctx.temperature,
                    ctx.softcap,
                    _forbidden(ctx.masks, lo, hi, weight),
                )
            grad_hidden[start:stop] = logits @ weight
            part = logits.T @ hidden[start:stop]
            if stop - start == len(hidden):
                grad_weight = part
            elif grad_weight is None:
                grad_weight = part.to(softmax_dtype(part.dtype))
            else:
                grad_weight += part
        if grad_weight is None:
            grad_weight = torch.zeros_like(weight)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None, None


def _lse_and_entropy(scaled: Tensor, forbidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log-normalisers and entropies [C] of `scaled` logits [C, V], with one exponential each."""
    largest = _filled(scaled, forbidden, -torch.inf).amax(dim=-1)
    below = scaled - largest[:, None]
    masses = _masses(below, forbidden)
    total = masses.sum(-1)
    # -sum p log p with log p = below - log(total).
    log_total = total.log()
    entropies = log_total - torch.linalg.vecdot(masses, below) / total
    return largest + log_total, entropies


def _masses(logs: Tensor, forbidden: Tensor | None) -> Tensor:
    """exp(logs), 0 where a token is forbidden, and `logs` itself is then 0 there."""
    if forbidden is None:
        return logs.exp()
    # Not the exponential of something far below: where it underflows, it takes forty times as long.
    return logs.masked_fill_(forbidden, 0.0).exp().masked_fill_(forbidden, 0.0)


def _row_chunks(start: int, stop: int, vocab_size: int) -> Iterator[tuple[int, int]]:
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    return ((lo, min(lo + size, stop)) for lo in range(start, stop, size))


def _logits_gradient_(
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    entropies: Tensor,
    grad_logprobs: Tensor,
    grad_entropies: Tensor,
    temperature: float,
    softcap: float,
    forbidden: Tensor | None,
) -> None:
    """Overwrite `logits` [C, V] with the gradient of the loss with respect to them."""
    grad_by_row = torch.zeros_like(normalisers).index_add_(0, rows, grad_logprobs)
    logprobs = capped = cap_logits(logits.to(normalisers.dtype), softcap)
    if temperature != 1.0:
        logprobs = logprobs / temperature
    logprobs = logprobs - normalisers[:, None]
    probs = _masses(logprobs, forbidden)
    # p * (-sum_m g_logprob - g_entropy * (logprob + entropy))
    grad = (
        logprobs.add_(entropies[:, None])
        .mul_(-grad_entropies[:, None])
        .sub_(grad_by_row[:, None])
        .mul_(probs)
    )
    grad.index_put_((rows, targets), grad_logprobs, accumulate=True)
    if softcap:
        # d/dx of softcap * tanh(x / softcap) is 1 - tanh^2.
        grad.mul_(1 - (capped / softcap).square())
    logits.copy_(grad.div_(temperature) if temperature != 1.0 else grad)
