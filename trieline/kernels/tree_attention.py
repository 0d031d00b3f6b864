"""Attention on a trie whose tokens stand in depth-first preorder.

Query i sees key j iff `j <= i < subtree_end[j]`, which is: j is i or an ancestor of i.

    out[i] = sum over visible j of softmax_j(c(scale * q[i] . k[j])) * v[j]

with c(s) = s, or c(s) = softcap * tanh(s / softcap) for models that cap their scores.
`reference_tree_attention` is that formula with a dense mask, and the specification. On a GPU the Triton
kernels of `tree_attention_op` run. On CPU each block of the plan runs against the keys of its ancestors and
its own.
Shapes: T tokens, H query heads, G key-value heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trieline.kernels.capped_attention import capped_attention
from trieline.kernels.tree_plan import (
    TreeAttentionPlan,
    add_to_keys,
    gather_keys,
    sum_dtype,
)

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
        nothing = k[:, :, :0]
        return capped_attention(q, k, v, nothing, nothing, plan, scale=scale, softcap=softcap)
    out: Tensor = _BlockedAttention.apply(q, k, v, plan, scale)  # type: ignore[no-untyped-call]
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


class _BlockedAttention(torch.autograd.Function):
    """Flash attention block by block, in the precisions of the plan."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: TreeAttentionPlan, scale: float) -> Tensor:
        q_, k_, v_ = (t.to(plan.forward_dtype) for t in (q, k, v))
        out = q_.new_empty(1, q.shape[2], q.shape[1], q.shape[3])
        logsumexps = []
        for block in plan.blocks:
            out_block, logsumexp = _flash(
                q_[:, :, block.start : block.stop],
                gather_keys(k_, block.key_ranges),
                gather_keys(v_, block.key_ranges),
                0.0,
                block.mask is None,
                attn_mask=block.mask,
                scale=scale,
            )
            out[:, block.start : block.stop] = out_block.transpose(1, 2)
            logsumexps.append(logsumexp.to(sum_dtype(q.dtype)))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, *logsumexps)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, *logsumexps = ctx.saved_tensors
        dtype = ctx.plan.backward_dtype
        q_, k_, v_ = q.to(dtype), k.to(dtype), v.to(dtype)
        grad_out, out = grad_out.to(dtype).transpose(1, 2), out.to(dtype).transpose(1, 2)
        grad_q = _zeros_by_token(q_, dtype)
        grad_k, grad_v = (_zeros_by_token(t, sum_dtype(q.dtype)) for t in (k_, v_))
        for block, logsumexp in zip(ctx.plan.blocks, logsumexps, strict=True):
            queries = slice(block.start, block.stop)
            grad_q_block, grad_keys, grad_values = _flash_backward(
                grad_out[:, :, queries],
                q_[:, :, queries],
                gather_keys(k_, block.key_ranges),
                gather_keys(v_, block.key_ranges),
                out[:, :, queries],
                logsumexp,
                0.0,
                block.backward_mask is None,
                attn_mask=block.backward_mask,
                scale=ctx.scale,
            )
            grad_q[:, :, queries] = grad_q_block
            add_to_keys(grad_k, grad_keys, block.key_ranges)
            add_to_keys(grad_v, grad_values, block.key_ranges)
        return grad_q.to(q.dtype), grad_k.to(q.dtype), grad_v.to(q.dtype), None, None


def _zeros_by_token(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros [1, heads, T, D] that lie in memory as [T, heads, D], the order in which the model has them."""
    _, heads, tokens, size = like.shape
    return like.new_zeros(1, tokens, heads, size, dtype=dtype).transpose(1, 2)
