"""Attention of a segment of a trie whose ancestors were computed before it.

The P tokens on the path above the segment are visible to all of its T queries; inside the segment tree
attention holds. Over all keys, with own[i] the keys of the segment that query i sees:

    out[i] = sum over j in 0:P and own[i] of softmax_j(scale * q[i] . k[j]) * v[j]

(with capped scores as in `tree_attention`). `reference_segment_attention` is that formula with a dense mask,
and the specification. On CPU the ancestors are one more part (`flash_parts`), on a GPU they are keys before
those of the segment. Letters as in `tree_attention`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trieline.kernels.capped_attention import capped_attention
from trieline.kernels.flash_parts import Backward, attend_more, attend_parts
from trieline.kernels.tree_attention import attend_visible, tree_attention, visible_pairs
from trieline.kernels.tree_plan import TreeAttentionPlan, sum_dtype


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

    On a GPU `plan` must have been made for P tokens above (`num_above`).

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward; what
    lies behind it in the same storage may change.
    """
    if q.shape[2] != plan.num_tokens or k.shape[2] != plan.num_tokens:
        msg = f"expected q and k of [1, heads, {plan.num_tokens}, size], got {[*q.shape]} and {[*k.shape]}"
        raise ValueError(msg)
    if k_above.shape[2] == 0:
        return tree_attention(q, k, v, plan, scale=scale, softcap=softcap)
    if plan.gpu_blocks is not None:
        from trieline.kernels.tree_attention_op import tree_attention_on_gpu

        keys, values = torch.cat([k_above, k], dim=2), torch.cat([v_above, v], dim=2)
        return tree_attention_on_gpu(q, keys, values, plan.gpu_blocks, scale=scale, softcap=softcap)
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
    """The parts of the plan, and the ancestors, whom all queries see."""

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
        q_, k_, v_, keys, values = (t.to(plan.forward_dtype) for t in (q, k, v, k_above, v_above))
        out, lse = attend_parts(q_, k_, v_, plan, scale)
        attend_more(out, lse, q_, keys, values, slice(None), scale)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        # Not among the saved tensors, whose versions are checked: later segments write behind them into the
        # same storage.
        ctx.k_above, ctx.v_above = k_above, v_above
        ctx.plan, ctx.scale = plan, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = ctx.plan.backward_dtype
        backward = Backward(grad_out.transpose(1, 2).to(dtype), q.to(dtype), out.to(dtype), lse, ctx.scale)
        above = backward.part(ctx.k_above.to(dtype), ctx.v_above.to(dtype), slice(None))
        grad_k, grad_v = backward.parts(k.to(dtype), v.to(dtype), ctx.plan)
        own = (t.to(q.dtype) for t in (backward.grad_q, grad_k, grad_v))
        # Those of the ancestors in the precision of sums: they come from many segments.
        return *own, *(t.to(sum_dtype(q.dtype)) for t in above), None, None  # type: ignore[return-value]
