"""Attention on a trie whose tokens stand in depth-first preorder.

Query i sees key j iff `j <= i < subtree_end[j]`, which is: j is i or an ancestor of i. In layers with a
sliding window (a plan's `windowed`) only if `depth[i] - depth[j] < window`, too.

    out[i] = sum over visible j of softmax_j(c(scale * q[i] . k[j])) * v[j]

with c(s) = s, or c(s) = softcap * tanh(s / softcap) for models that cap their scores.
`reference_tree_attention` is that formula with a dense mask, and the specification. On a GPU the Triton
kernels run (`gpu/tree_attention_op`), on a CPU the parts of the plan one after the other
(`cpu/flash_attention`, `cpu/capped_attention`).
Shapes: T tokens, H query heads, G key-value heads, D head size.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.cpu.capped_attention import capped_attention
from trieline.kernels.cpu.flash_attention import flash_attention
from trieline.kernels.tree_plan import TreeAttentionPlan


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
        from trieline.kernels.gpu.tree_attention_op import tree_attention_on_gpu

        return tree_attention_on_gpu(q, k, v, plan.gpu_blocks, scale=scale, softcap=softcap)
    if plan.cpu_parts is None:
        return reference_tree_attention(
            q, k, v, plan.subtree_end, scale=scale, softcap=softcap, window=plan.window
        )
    nothing = k[:, :, :0].detach()
    if softcap:
        return capped_attention(q, k, v, nothing, nothing, plan.cpu_parts, scale=scale, softcap=softcap)
    return flash_attention(q, k, v, nothing, nothing, plan.cpu_parts, scale=scale)


def reference_tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    subtree_end: Tensor,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
) -> Tensor:
    """The formula of this module with a dense [T, T] mask. As `tree_attention`; window 0: none."""
    return attend_visible(q, k, v, visible_pairs(subtree_end, window), scale=scale, softcap=softcap)


def visible_pairs(subtree_end: Tensor, window: int = 0) -> Tensor:
    """[T, T] whether the query of the row sees the key of the column."""
    index = torch.arange(len(subtree_end), device=subtree_end.device)
    visible = (index[None, :] <= index[:, None]) & (index[:, None] < subtree_end[None, :])
    if not window:
        return visible
    depth = visible.sum(1)
    return visible & (depth[:, None] - depth[None, :] < window)


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
