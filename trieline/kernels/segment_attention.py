"""Attention of a segment of a trie whose ancestors were computed before it.

The P tokens on the path above the segment are visible to all of its T queries; inside the segment tree
attention holds. Over all keys, with own[i] the keys of the segment that query i sees:

    out[i] = sum over j in 0:P and own[i] of softmax_j(scale * q[i] . k[j]) * v[j]

(with capped scores as in `tree_attention`). `reference_segment_attention` is that formula with a dense mask,
and the specification. On a CPU the ancestors are one more part of the plan's, on a GPU they are keys
before those of the segment. Letters as in `tree_attention`.
"""

import torch
from torch import Tensor

from trieline.kernels.cpu.capped_attention import capped_attention
from trieline.kernels.cpu.flash_attention import flash_attention
from trieline.kernels.tree_attention import attend_visible, tree_attention, visible_pairs
from trieline.kernels.tree_plan import TreeAttentionPlan


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

    On a GPU, and with a window, `plan` must have been made for P tokens above (`num_above`).

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward; what
    lies behind it in the same storage may change.
    """
    if q.shape[2] != plan.num_tokens or k.shape[2] != plan.num_tokens:
        msg = f"expected q and k of [1, heads, {plan.num_tokens}, size], got {[*q.shape]} and {[*k.shape]}"
        raise ValueError(msg)
    if k_above.shape[2] == 0:
        return tree_attention(q, k, v, plan, scale=scale, softcap=softcap)
    if plan.gpu_blocks is not None:
        from trieline.kernels.gpu.tree_attention_op import tree_attention_on_gpu

        keys, values = torch.cat([k_above, k], dim=2), torch.cat([v_above, v], dim=2)
        return tree_attention_on_gpu(q, keys, values, plan.gpu_blocks, scale=scale, softcap=softcap)
    if plan.cpu_parts is None:
        return reference_segment_attention(
            q, k, v, k_above, v_above, plan.subtree_end, scale=scale, softcap=softcap, window=plan.window
        )
    if softcap:
        return capped_attention(q, k, v, k_above, v_above, plan.cpu_parts, scale=scale, softcap=softcap)
    return flash_attention(q, k, v, k_above, v_above, plan.cpu_parts, scale=scale)


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
    window: int = 0,
) -> Tensor:
    """The formula of this module with a dense [T, P + T] mask. Same shapes as `segment_attention`."""
    above = subtree_end.new_full((k_above.shape[2],), k_above.shape[2] + len(subtree_end))
    visible = visible_pairs(torch.cat([above, subtree_end + len(above)]), window)[len(above) :]
    keys, values = torch.cat([k_above, k], dim=2), torch.cat([v_above, v], dim=2)
    return attend_visible(q, keys, values, visible, scale=scale, softcap=softcap)
