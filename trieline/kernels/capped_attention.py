"""Attention of a trie's tokens with capped scores, on the CPU, where torch's flash attention has no cap.

    out[i] = sum over visible j of softmax_j(softcap * tanh(scale * q[i] . k[j] / softcap)) * v[j]

Visible are the P tokens above, if the tokens are a segment whose ancestors were computed before it, and of
the T own ones those that the plan names. Products over blocks of queries, and for the backward again.
Letters as in `tree_attention`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trieline.kernels.tree_plan import (
    MAX_BLOCK,
    TreeAttentionPlan,
    add_to_keys,
    gather_keys,
    sum_dtype,
)

_Ranges = tuple[tuple[int, int], ...]


def capped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_above: Tensor,
    v_above: Tensor,
    plan: TreeAttentionPlan,
    *,
    scale: float,
    softcap: float,
) -> Tensor:
    """Attend `q` [1, H, T, D] to `k_above`, `v_above` [1, G, P, D] and, by `plan`, to `k`, `v` [1, G, T, D].

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward.
    """
    out: Tensor = _CappedAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, k_above, v_above, plan, scale, softcap
    )
    return out


class _CappedAttention(torch.autograd.Function):
    """Keeps what flash attention keeps: operands, result and log-sum-exps."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_above: Tensor,
        v_above: Tensor,
        plan: TreeAttentionPlan,
        scale: float,
        softcap: float,
    ) -> Tensor:
        # The softmax here is no fused one: half precision would round its scores.
        dtype = sum_dtype(plan.forward_dtype)
        q_, k_, v_, keys_above, values_above = (t.to(dtype) for t in (q, k, v, k_above, v_above))
        out = q_.new_empty(1, q.shape[2], q.shape[1], v.shape[3])
        lse = q_.new_empty(1, q.shape[1], q.shape[2])
        for start, stop, ranges, mask in _pieces(plan):
            keys = torch.cat([keys_above, gather_keys(k_, ranges)], dim=2)
            values = torch.cat([values_above, gather_keys(v_, ranges)], dim=2)
            queries = _by_group(q_[:, :, start:stop], k.shape[1])
            scores = softcap * torch.tanh(queries @ keys[0].mT * (scale / softcap))
            _hide(scores, mask, stop - start)
            logsumexp = scores.logsumexp(-1, keepdim=True)
            attended = (scores - logsumexp).exp_() @ values[0]
            out[:, start:stop] = _by_head(attended, stop - start).transpose(1, 2)
            lse[:, :, start:stop] = _by_head(logsumexp, stop - start)[..., 0]
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        # Not among the saved tensors, whose versions are checked: later segments write behind them into the
        # same storage.
        ctx.above = k_above, v_above
        ctx.plan, ctx.scale, ctx.softcap = plan, scale, softcap
        return out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = sum_dtype(ctx.plan.backward_dtype)
        q_, k_, v_, keys_above, values_above = (t.to(dtype) for t in (q, k, v, *ctx.above))
        grad_out, out = grad_out.to(dtype).transpose(1, 2), out.to(dtype).transpose(1, 2)
        delta = (grad_out * out).sum(-1)
        grad_q, grad_k, grad_v, grad_k_above, grad_v_above = (
            torch.zeros_like(t) for t in (q_, k_, v_, keys_above, values_above)
        )
        groups, num_above = k.shape[1], keys_above.shape[2]
        for start, stop, ranges, mask in _pieces(ctx.plan):
            keys = torch.cat([keys_above, gather_keys(k_, ranges)], dim=2)
            values = torch.cat([values_above, gather_keys(v_, ranges)], dim=2)
            queries, grads = (_by_group(t[:, :, start:stop], groups) for t in (q_, grad_out))
            tanh = torch.tanh(queries @ keys[0].mT * (ctx.scale / ctx.softcap))
            scores = ctx.softcap * tanh
            _hide(scores, mask, stop - start)
            weights = scores.sub_(_by_group(lse[:, :, start:stop, None], groups)).exp_()
            grad_weights = grads @ values[0].mT
            grad_weights -= _by_group(delta[:, :, start:stop, None], groups)
            # d/ds of softcap * tanh(s / softcap) is 1 - tanh^2.
            grad_scores = grad_weights.mul_(weights).mul_(1 - tanh.square()).mul_(ctx.scale)
            grad_q[:, :, start:stop] = _by_head(grad_scores @ keys[0], stop - start)
            grad_keys = (grad_scores.mT @ queries)[None]
            grad_values = (weights.mT @ grads)[None]
            grad_k_above += grad_keys[:, :, :num_above]
            grad_v_above += grad_values[:, :, :num_above]
            add_to_keys(grad_k, grad_keys[:, :, num_above:], ranges)
            add_to_keys(grad_v, grad_values[:, :, num_above:], ranges)
        # Those of the ancestors in the precision of sums: they come from many segments.
        own = (t.to(q.dtype) for t in (grad_q, grad_k, grad_v))
        return *own, grad_k_above, grad_v_above, None, None, None  # type: ignore[return-value]


def _pieces(plan: TreeAttentionPlan) -> Iterator[tuple[int, int, _Ranges, Tensor]]:
    """(start, stop, key ranges, mask [B, K] of 0 and -inf) of at most MAX_BLOCK queries each."""
    for block in plan.blocks:
        if block.mask is not None:
            yield block.start, block.stop, block.key_ranges, block.mask
            continue
        for start in range(block.start, block.stop, MAX_BLOCK):
            stop = min(start + MAX_BLOCK, block.stop)
            hidden = torch.ones(stop - start, stop - block.start, dtype=torch.bool).triu(
                start - block.start + 1
            )
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            yield start, stop, ((block.start, stop),), mask


def _hide(scores: Tensor, mask: Tensor, num_queries: int) -> None:
    """Add `mask` [B, K] to the last K columns of `scores` [G, repeats * B, P + K]; all see those above."""
    own = scores.view(len(scores), -1, num_queries, scores.shape[-1])[..., -mask.shape[1] :]
    own += mask


def _by_group(by_head: Tensor, groups: int) -> Tensor:
    """[G, repeats * B, D] from [1, H, B, D]: the query heads of a key-value head, one below the other."""
    return by_head.reshape(groups, -1, by_head.shape[-1])


def _by_head(by_group: Tensor, num_queries: int) -> Tensor:
    """[1, H, B, D] from [G, repeats * B, D]."""
    return by_group.reshape(1, -1, num_queries, by_group.shape[-1])
