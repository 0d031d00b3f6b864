"""The parts of a trie's attention by torch's flash attention for the CPU, and how they become one.

A part is some queries against some keys, all of which they see, or those that a mask names. With the results
of two parts and their log-sum-exps,

    lse = log(exp(lse_1) + exp(lse_2))
    out = exp(lse_1 - lse) out_1 + exp(lse_2 - lse) out_2

is the result over the keys of both. The backward of each part is that of flash attention with the merged
`out` and `lse`: with p = exp(s - lse) it needs nothing of the other parts. Letters as in `tree_attention`.
"""

from functools import cache

import torch
from torch import Tensor

from trieline.kernels.cpu.precision import sum_dtype
from trieline.kernels.cpu.tree_parts import TreeParts, add_to_keys, gather_keys

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""(q, k, v, dropout, is_causal, attn_mask=, scale=) to the result [1, H, T, D] and log-sum-exps [1, H, T]."""
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
"""A thread of it takes all queries of a head of keys: with three such heads one of two threads waits."""
MIN_SLICE = 64
"""Queries below which `_flash_backward` loses more by short products than it gains by one more thread."""
ENOUGH_BUSY = 0.9
"""Share of the threads' time above which more slices, each with key gradients of its own, gain nothing."""


def attend_parts(q: Tensor, k: Tensor, v: Tensor, parts: TreeParts, scale: float) -> tuple[Tensor, Tensor]:
    """Result [1, H, T, D] and log-sum-exps [1, H, T] over all blocks and trunks, in the precision of sums."""
    _, heads, tokens, size = q.shape
    dtype = sum_dtype(q.dtype)
    # In memory as [T, H, D], the order in which the model goes on with it.
    out = q.new_empty(1, tokens, heads, size, dtype=dtype).transpose(1, 2)
    lse = q.new_empty(1, heads, tokens, dtype=dtype)
    for block in parts.blocks:
        out[:, :, block.queries], lse[..., block.queries] = flash(
            q[:, :, block.queries],
            gather_keys(k, block.key_ranges),
            gather_keys(v, block.key_ranges),
            0.0,
            block.mask is None,
            attn_mask=block.mask,
            scale=scale,
        )
    for trunk in parts.trunks:
        attend_more(out, lse, q, k[:, :, trunk.keys], v[:, :, trunk.keys], trunk.queries, scale)
    return out, lse


def attend_more(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, queries: slice, scale: float
) -> None:
    """Merge into `out` and `lse` what `queries` find at keys that all of them see."""
    merge(out, lse, queries, *flash(q[:, :, queries], k, v, 0.0, False, attn_mask=None, scale=scale))


def merge(out: Tensor, lse: Tensor, queries: slice, part: Tensor, part_lse: Tensor) -> None:
    """Make one of what is in `out` [1, H, T, D] and `lse` [1, H, T] of `queries`, and of one more part."""
    before = lse[..., queries]
    merged = torch.logaddexp(before, part_lse)
    share = (part_lse - merged).exp_()[..., None]
    out[:, :, queries].lerp_(part.to(out.dtype), share)
    before.copy_(merged)


class Backward:
    """Gradients of parts, summed over them; `grad_out`, `q` and `out` are of all queries."""

    def __init__(self, grad_out: Tensor, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        self._grad_out, self._q, self._out, self._lse = grad_out, q, out, lse
        self._scale = scale
        self.grad_q = _zeros_by_token(q)

    def part(
        self, k: Tensor, v: Tensor, queries: slice, *, mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of `queries` by these keys; returns those of keys and values."""
        start, stop, _ = queries.indices(self._q.shape[2])
        count = stop - start
        slices = 1 if is_causal else num_slices(k.shape[1], count, torch.get_num_threads())
        even = count - count % slices
        masks = (None, None) if mask is None else (mask[:even], mask[even:])
        grad_k, grad_v = self._slices(k, v, slice(start, start + even), slices, masks[0], is_causal)
        if even < count:
            rest = self._slices(k, v, slice(start + even, stop), 1, masks[1], is_causal)
            grad_k += rest[0]
            grad_v += rest[1]
        return grad_k, grad_v

    def _slices(
        self, k: Tensor, v: Tensor, queries: slice, slices: int, mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """`part` with the queries as so many rows of a batch, whose keys are the same memory."""

        def sliced(by_query: Tensor) -> Tensor:
            """[1, H, queries, ...] as [slices, H, queries / slices, ...]."""
            return torch.unflatten(by_query[0, :, queries], 1, (slices, -1)).transpose(0, 1)

        grad_q, grad_k, grad_v = _flash_backward(
            sliced(self._grad_out),
            sliced(self._q),
            k.expand(slices, -1, -1, -1),
            v.expand(slices, -1, -1, -1),
            sliced(self._out),
            sliced(self._lse),
            0.0,
            is_causal,
            attn_mask=None if mask is None else torch.unflatten(mask, 0, (slices, 1, -1)),
            scale=self._scale,
        )
        sliced(self.grad_q).add_(grad_q)
        if slices == 1:
            return grad_k, grad_v
        return grad_k.sum(0, keepdim=True), grad_v.sum(0, keepdim=True)

    def parts(self, k: Tensor, v: Tensor, parts: TreeParts) -> tuple[Tensor, Tensor]:
        """Those of all blocks and trunks of `parts`; returns the gradients of `k` and `v`."""
        totals = _zeros_by_token(k), _zeros_by_token(v)
        for block in parts.blocks:
            gradients = self.part(
                gather_keys(k, block.key_ranges),
                gather_keys(v, block.key_ranges),
                block.queries,
                mask=block.backward_mask,
                is_causal=block.backward_mask is None,
            )
            for total, gradient in zip(totals, gradients, strict=True):
                add_to_keys(total, gradient, block.key_ranges)
        for trunk in parts.trunks:
            gradients = self.part(k[:, :, trunk.keys], v[:, :, trunk.keys], trunk.queries)
            for total, gradient in zip(totals, gradients, strict=True):
                total[:, :, trunk.keys] += gradient
        return totals


@cache
def num_slices(key_heads: int, queries: int, threads: int) -> int:
    """In how many slices of equal length to hand queries out, so that few of `threads` wait at the end."""

    def busy(slices: int) -> float:
        work = key_heads * slices
        return work / (-(-work // threads) * threads)

    most = min(threads, max(1, queries // MIN_SLICE))
    return max(range(1, most + 1), key=lambda slices: (min(busy(slices), ENOUGH_BUSY), -slices))


def _zeros_by_token(like: Tensor) -> Tensor:
    """Zeros [1, heads, T, D] in the precision of sums, in memory as [T, heads, D]: the model's order."""
    _, heads, tokens, size = like.shape
    return like.new_zeros(1, tokens, heads, size, dtype=sum_dtype(like.dtype)).transpose(1, 2)
