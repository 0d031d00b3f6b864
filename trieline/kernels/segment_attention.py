"""Attention of a segment of a trie whose ancestors were computed before it.

The P tokens on the path above the segment are visible to all of its T queries; inside the segment tree
attention holds. Over all keys, with own[i] the keys of the segment that query i sees:

    out[i] = sum over j in 0:P and own[i] of softmax_j(scale * q[i] . k[j]) * v[j]

(with capped scores as in `tree_attention`). `reference_segment_attention` is that formula with a dense mask,
and the specification. On CPU both parts run apart, the ancestors without a mask, and merge by their
log-sum-exps:

    lse = log(exp(lse_above) + exp(lse_own))
    out = exp(lse_above - lse) out_above + exp(lse_own - lse) out_own

The backward of each part is that of flash attention with the merged `out` and `lse`: with p = exp(s - lse) it
needs nothing else of the other part. Letters as in `tree_attention`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trieline.kernels.capped_attention import capped_attention
from trieline.kernels.tree_attention import attend_visible, tree_attention, visible_pairs
from trieline.kernels.tree_plan import (
    TreeAttentionPlan,
    add_to_keys,
    gather_keys,
    sum_dtype,
)

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_above: Tensor,
    v_above: Tensor,
    plan: TreeAttentionPlan,
    *,
    scale: float,
    softcap: float = 0.0,
) -> Tensor:
    """Attend `q` [1, H, T, D] to `k_above`, `v_above` [1, G, P, D] and, by `plan`, to `k`, `v` [1, G, T, D].

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward; what
    lies behind it in the same storage may change.
    """
    if q.shape[2] != plan.num_tokens or k.shape[2] != plan.num_tokens:
        msg = f"expected q and k of [1, heads, {plan.num_tokens}, size], got {[*q.shape]} and {[*k.shape]}"
        raise ValueError(msg)
    if k_above.shape[2] == 0:
        return tree_attention(q, k, v, plan, scale=scale, softcap=softcap)
    if q.device.type != "cpu":
        return reference_segment_attention(
            q, k, v, k_above, v_above, plan.subtree_end, scale=scale, softcap=softcap
        )
    if softcap:
        return capped_attention(q, k, v, k_above, v_above, plan, scale=scale, softcap=softcap)
    out: Tensor = _SegmentAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, k_above, v_above, plan, scale
    )
    return out


def reference_segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_above: Tensor,
    v_above: Tensor,
    subtree_end: Tensor,
    *,
    scale: float,
    softcap: float = 0.0,
) -> Tensor:
    """The formula of this module with a dense [T, P + T] mask. Same shapes as `segment_attention`."""
    own = visible_pairs(subtree_end)
    visible = torch.cat([own.new_ones(len(own), k_above.shape[2]), own], dim=1)
    keys, values = torch.cat([k_above, k], dim=2), torch.cat([v_above, v], dim=2)
    return attend_visible(q, keys, values, visible, scale=scale, softcap=softcap)


class _SegmentAttention(torch.autograd.Function):
    """Both parts in the precisions of the plan; `out` and `lse` are those of all keys."""

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
    ) -> Tensor:
        dtype = plan.forward_dtype
        q_, k_, v_ = q.to(dtype), k.to(dtype), v.to(dtype)
        above, lse_above = _flash(
            q_, k_above.to(dtype), v_above.to(dtype), 0.0, False, attn_mask=None, scale=scale
        )
        lse = torch.empty_like(lse_above)
        out = q_.new_empty(1, q.shape[2], q.shape[1], q.shape[3])
        for block in plan.blocks:
            queries = slice(block.start, block.stop)
            own, lse_own = _flash(
                q_[:, :, queries],
                gather_keys(k_, block.key_ranges),
                gather_keys(v_, block.key_ranges),
                0.0,
                block.mask is None,
                attn_mask=block.mask,
                scale=scale,
            )
            lse[..., queries] = torch.logaddexp(lse_above[..., queries], lse_own)
            share = (lse_own - lse[..., queries]).exp()[..., None]
            rest = above[:, :, queries].to(lse.dtype)
            out[:, queries] = torch.lerp(rest, own.to(lse.dtype), share).transpose(1, 2)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        # Not among the saved tensors, whose versions are checked: later segments write behind them into the
        # same storage.
        ctx.k_above, ctx.v_above = k_above, v_above
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = ctx.plan.backward_dtype
        q_, k_, v_ = q.to(dtype), k.to(dtype), v.to(dtype)
        grad_out, out = grad_out.to(dtype).transpose(1, 2), out.to(dtype).transpose(1, 2)
        grad_q, grad_k_above, grad_v_above = _flash_backward(
            grad_out,
            q_,
            ctx.k_above.to(dtype),
            ctx.v_above.to(dtype),
            out,
            lse,
            0.0,
            False,
            attn_mask=None,
            scale=ctx.scale,
        )
        grad_k, grad_v = (torch.zeros_like(t, dtype=sum_dtype(q.dtype)) for t in (k, v))
        for block in ctx.plan.blocks:
            queries = slice(block.start, block.stop)
            grad_q_block, grad_keys, grad_values = _flash_backward(
                grad_out[:, :, queries],
                q_[:, :, queries],
                gather_keys(k_, block.key_ranges),
                gather_keys(v_, block.key_ranges),
                out[:, :, queries],
                lse[..., queries],
                0.0,
                block.backward_mask is None,
                attn_mask=block.backward_mask,
                scale=ctx.scale,
            )
            grad_q[:, :, queries] += grad_q_block
            add_to_keys(grad_k, grad_keys, block.key_ranges)
            add_to_keys(grad_v, grad_values, block.key_ranges)
        return (
            grad_q.to(q.dtype),
            grad_k.to(q.dtype),
            grad_v.to(q.dtype),
            # Those of the ancestors in the precision of sums: they come from many segments.
            grad_k_above.to(sum_dtype(q.dtype)),
            grad_v_above.to(sum_dtype(q.dtype)),
            None,
            None,
        )
