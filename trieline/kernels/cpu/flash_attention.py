"""Attention of a trie's tokens on the CPU by torch's flash attention, part after part.

Letters as in `tree_attention`, and P tokens above, which all T own ones see: those of the path down to a
segment. Their keys and values are one more part.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trieline.kernels.cpu.flash_parts import Backward, attend_more, attend_parts
from trieline.kernels.cpu.precision import sum_dtype
from trieline.kernels.cpu.tree_parts import TreeParts


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, k_above: Tensor, v_above: Tensor, parts: TreeParts, *, scale: float
) -> Tensor:
    """Attend `q` [1, H, T, D] to `k_above`, `v_above` [1, G, P, D] and, by `parts`, to `k`, `v` [1, G, T, D].

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward.
    """
    out: Tensor = _FlashAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, k_above, v_above, parts, scale
    )
    return out


class _FlashAttention(torch.autograd.Function):
    """All parts, in the precisions of the plan."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_above: Tensor,
        v_above: Tensor,
        parts: TreeParts,
        scale: float,
    ) -> Tensor:
        q_, k_, v_, keys, values = (t.to(parts.forward_dtype) for t in (q, k, v, k_above, v_above))
        if parts.num_above is not None:
            k_, v_ = torch.cat([keys, k_], dim=2), torch.cat([values, v_], dim=2)
        out, lse = attend_parts(q_, k_, v_, parts, scale)
        if k_above.shape[2] and parts.num_above is None:
            attend_more(out, lse, q_, keys, values, slice(None), scale)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        # Not among the saved tensors, whose versions are checked: later segments write behind them into the
        # same storage.
        ctx.above = k_above, v_above
        ctx.parts, ctx.scale = parts, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = ctx.parts.backward_dtype
        backward = Backward(grad_out.transpose(1, 2).to(dtype), q.to(dtype), out.to(dtype), lse, ctx.scale)
        keys, values = (t.to(dtype) for t in ctx.above)
        own, count = (k.to(dtype), v.to(dtype)), keys.shape[2]
        grads: tuple[Tensor, Tensor] | None = None
        if ctx.parts.num_above is not None:
            own = torch.cat([keys, own[0]], dim=2), torch.cat([values, own[1]], dim=2)
        elif count:
            grads = backward.part(keys, values, slice(None))
        grad_k, grad_v = backward.parts(*own, ctx.parts)
        if ctx.parts.num_above is not None and count:
            grads = grad_k[:, :, :count], grad_v[:, :, :count]
            grad_k, grad_v = grad_k[:, :, count:], grad_v[:, :, count:]
        above: tuple[Tensor | None, Tensor | None] = None, None
        if grads is not None:
            # In the precision of sums: they come from many segments.
            above = grads[0].to(sum_dtype(q.dtype)), grads[1].to(sum_dtype(q.dtype))
        grad_q, grad_k, grad_v = (t.to(q.dtype) for t in (backward.grad_q, grad_k, grad_v))
        return grad_q, grad_k, grad_v, *above, None, None
