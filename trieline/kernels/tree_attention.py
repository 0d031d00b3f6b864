"""Attention on a trie whose tokens stand in depth-first preorder.

Query i sees key j iff `j <= i < subtree_end[j]`, which is: j is i or an ancestor of i.

    out[i] = sum over visible j of softmax_j(c(scale * q[i] . k[j])) * v[j]

with c(s) = s, or c(s) = softcap * tanh(s / softcap) for models that cap their scores.
`reference_tree_attention` is that formula with a dense mask, and the specification. On a GPU the Triton
kernels of `tree_attention_op` run. On CPU the parts of the plan run one after the other (`flash_parts`).
Shapes: T tokens, H query heads, G key-value heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trieline.kernels.capped_attention import capped_attention
from trieline.kernels.flash_parts import Backward, attend_parts
from trieline.kernels.tree_plan import TreeAttentionPlan, sum_dtype


def tree_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: TreeAttentionPlan, *, scale: float, softcap: float = 0.0
) -> Tensor:
    """Attend `q` [1, H, T, D] to `k`, `v` [1, G, T, D]; H is a multiple of G. Returns [1, T, H, D].

    `softcap` > 0 caps scores, which on the CPU takes several times as long.
    """
    if q.shape[0] != 1 or q.shape[2] != plan.num_tokens or k.shape[2] != plan.num_tokens:
        msg = f"expected q and k of [1, heads, {plan.num_tokens}, size], got {[*q.shape]} and {[*k.shape]}"
        raise ValueError(msg)
    if softcap < 0:
        msg = f"expected a softcap of at least 0, got {softcap}"
        raise ValueError(msg)
    if plan.gpu_blocks is not None:
        from trieline.kernels.tree_attention_op import tree_attention_on_gpu

        return tree_attention_on_gpu(q, k, v, plan.gpu_blocks, scale=scale, softcap=softcap)
    if q.device.type != "cpu":
        return reference_tree_attention(q, k, v, plan.subtree_end, scale=scale, softcap=softcap)
    if softcap:
        nothing = k[:, :, :0].detach()
        return capped_attention(q, k, v, nothing, nothing, plan, scale=scale, softcap=softcap)
    out: Tensor = _TreeAttention.apply(q, k, v, plan, scale)  # type: ignore[no-untyped-call]
    return out


def reference_tree_attention(
    q: Tensor, k: Tensor, v: Tensor, subtree_end: Tensor, *, scale: float, softcap: float = 0.0
) -> Tensor:
    """The formula of this module with a dense [T, T] mask. Same shapes as `tree_attention`."""
    return attend_visible(q, k, v, visible_pairs(subtree_end), scale=scale, softcap=softcap)


def visible_pairs(subtree_end: Tensor) -> Tensor:
    """[T, T] whether the query of the row sees the key of the column."""
    index = torch.arange(len(subtree_end), device=subtree_end.device)
    return (index[None, :] <= index[:, None]) & (index[:, None] < subtree_end[None, :])


def attend_visible(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *, scale: float, softcap: float = 0.0
) -> Tensor:
    """Attend `q` [1, H, T, D] to those of `k`, `v` [1, G, K, D] that `visible` [T, K] names."""
    if not softcap:
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)
    repeats = q.shape[1] // k.shape[1]
    scores = scale * q @ k.repeat_interleave(repeats, dim=1).transpose(-1, -2)
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ v.repeat_interleave(repeats, dim=1)).transpose(1, 2)


class _TreeAttention(torch.autograd.Function):
    """All parts of the plan, in its precisions."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: TreeAttentionPlan, scale: float) -> Tensor:
        q_, k_, v_ = (t.to(plan.forward_dtype) for t in (q, k, v))
        out, lse = attend_parts(q_, k_, v_, plan, scale)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        ctx.plan, ctx.scale = plan, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = ctx.plan.backward_dtype
        backward = Backward(grad_out.transpose(1, 2).to(dtype), q.to(dtype), out.to(dtype), lse, ctx.scale)
        grad_k, grad_v = backward.parts(k.to(dtype), v.to(dtype), ctx.plan)
        return backward.grad_q.to(q.dtype), grad_k.to(q.dtype), grad_v.to(q.dtype), None, None
