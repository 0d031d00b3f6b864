"""Attention of a trie's tokens with capped scores, on the CPU, where torch's flash attention has no cap.

    out[i] = sum over visible j of softmax_j(softcap * tanh(scale * q[i] . k[j] / softcap)) * v[j]

Visible are the P tokens above, if the tokens are a segment whose ancestors were computed before it, and of
the T own ones those that the plan names. Products over some queries at a time, and for the backward again;
their parts become one as those of flash attention do (`flash_parts`).
Letters as in `tree_attention`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trieline.kernels.cpu.flash_parts import merge
from trieline.kernels.cpu.precision import sum_dtype
from trieline.kernels.cpu.tree_parts import MAX_BLOCK, TreeParts, add_to_keys, gather_keys


def capped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_above: Tensor,
    v_above: Tensor,
    parts: TreeParts,
    *,
    scale: float,
    softcap: float,
) -> Tensor:
    """Attend `q` [1, H, T, D] to `k_above`, `v_above` [1, G, P, D] and, by `parts`, to `k`, `v` [1, G, T, D].

    Returns [1, T, H, D]. The memory of `k_above` and `v_above` must keep its values until the backward.
    """
    out: Tensor = _CappedAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, k_above, v_above, parts, scale, softcap
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
        parts: TreeParts,
        scale: float,
        softcap: float,
    ) -> Tensor:
        # The softmax here is no fused one: half precision would round its scores.
        dtype = sum_dtype(parts.forward_dtype)
        q_, k_, v_, keys_above, values_above = (t.to(dtype) for t in (q, k, v, k_above, v_above))
        out = q_.new_zeros(1, q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)
        lse = q_.new_full((1, q.shape[1], q.shape[2]), -torch.inf)
        if parts.num_above is not None:
            k_, v_ = torch.cat([keys_above, k_], dim=2), torch.cat([values_above, v_], dim=2)
        for piece in _pieces(parts, k_above.shape[2]):
            keys, values = piece.of(k_, keys_above), piece.of(v_, values_above)
            queries = _by_group(q_[:, :, piece.queries], k.shape[1])
            scores = softcap * torch.tanh(queries @ keys[0].mT * (scale / softcap))
            piece.hide(scores)
            logsumexp = scores.logsumexp(-1, keepdim=True)
            attended = (scores - logsumexp).exp_() @ values[0]
            merge(
                out,
                lse,
                piece.queries,
                _by_head(attended, piece.num_queries),
                _by_head(logsumexp, piece.num_queries)[..., 0],
            )
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.to(sum_dtype(q.dtype)))
        # Not among the saved tensors, whose versions are checked: later segments write behind them into the
        # same storage.
        ctx.above = k_above, v_above
        ctx.parts, ctx.scale, ctx.softcap = parts, scale, softcap
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = sum_dtype(ctx.parts.backward_dtype)
        q_, k_, v_, keys_above, values_above = (t.to(dtype) for t in (q, k, v, *ctx.above))
        grad_out, out = grad_out.to(dtype).transpose(1, 2), out.to(dtype)
        delta = (grad_out * out).sum(-1)
        count = keys_above.shape[2]
        if ctx.parts.num_above is not None:
            k_, v_ = torch.cat([keys_above, k_], dim=2), torch.cat([values_above, v_], dim=2)
        grad_q, grad_k, grad_v, grad_k_above, grad_v_above = (
            torch.zeros_like(t) for t in (q_, k_, v_, keys_above, values_above)
        )
        groups = k.shape[1]
        for piece in _pieces(ctx.parts, keys_above.shape[2]):
            keys, values = piece.of(k_, keys_above), piece.of(v_, values_above)
            queries, grads = (_by_group(t[:, :, piece.queries], groups) for t in (q_, grad_out))
            tanh = torch.tanh(queries @ keys[0].mT * (ctx.scale / ctx.softcap))
            scores = ctx.softcap * tanh
            piece.hide(scores)
            weights = scores.sub_(_by_group(lse[:, :, piece.queries, None], groups)).exp_()
            grad_weights = grads @ values[0].mT
            grad_weights -= _by_group(delta[:, :, piece.queries, None], groups)
            # d/ds of softcap * tanh(s / softcap) is 1 - tanh^2.
            grad_scores = grad_weights.mul_(weights).mul_(1 - tanh.square()).mul_(ctx.scale)
            grad_q[:, :, piece.queries] += _by_head(grad_scores @ keys[0], piece.num_queries)
            piece.add(grad_k, grad_k_above, (grad_scores.mT @ queries)[None])
            piece.add(grad_v, grad_v_above, (weights.mT @ grads)[None])
        if ctx.parts.num_above is not None:
            grad_k_above, grad_k = grad_k[:, :, :count], grad_k[:, :, count:]
            grad_v_above, grad_v = grad_v[:, :, :count], grad_v[:, :, count:]
        # Those of the ancestors in the precision of sums: they come from many segments.
        own = (t.to(q.dtype) for t in (grad_q, grad_k, grad_v))
        return *own, grad_k_above, grad_v_above, None, None, None  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Piece:
    """Some queries against some keys: of the plan's own tokens, or all of those above."""

    start: int
    stop: int
    key_ranges: tuple[tuple[int, int], ...] | None
    """None: the keys above."""
    mask: Tensor | None = None
    """[B, K] of 0 and -inf. None: all of them are seen."""

    @property
    def queries(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def num_queries(self) -> int:
        return self.stop - self.start

    def of(self, own: Tensor, above: Tensor) -> Tensor:
        return above if self.key_ranges is None else gather_keys(own, self.key_ranges)

    def add(self, own: Tensor, above: Tensor, part: Tensor) -> None:
        if self.key_ranges is None:
            above += part
        else:
            add_to_keys(own, part, self.key_ranges)

    def hide(self, scores: Tensor) -> None:
        """Add the mask to `scores` [G, repeats * B, K]."""
        if self.mask is not None:
            scores.view(len(scores), -1, self.num_queries, scores.shape[-1]).add_(self.mask)


def _pieces(parts: TreeParts, num_above: int) -> Iterator[_Piece]:
    """All parts, of at most MAX_BLOCK queries each: those of blocks, of trunks, and the keys above."""
    for block in parts.blocks:
        if block.mask is not None:
            yield _Piece(start=block.start, stop=block.stop, key_ranges=block.key_ranges, mask=block.mask)
            continue
        for start, stop in _steps(block.start, block.stop):
            hidden = torch.ones(stop - start, stop - block.start, dtype=torch.bool).triu(
                start - block.start + 1
            )
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            yield _Piece(start=start, stop=stop, key_ranges=((block.start, stop),), mask=mask)
    for trunk in parts.trunks:
        for start, stop in _steps(trunk.stop, trunk.end):
            yield _Piece(start=start, stop=stop, key_ranges=((trunk.start, trunk.stop),))
    if num_above and parts.num_above is None:
        for start, stop in _steps(0, parts.num_tokens):
            yield _Piece(start=start, stop=stop, key_ranges=None)


def _steps(start: int, stop: int) -> Iterator[tuple[int, int]]:
    return ((lo, min(lo + MAX_BLOCK, stop)) for lo in range(start, stop, MAX_BLOCK))


def _by_group(by_head: Tensor, groups: int) -> Tensor:
    """[G, repeats * B, D] from [1, H, B, D]: the query heads of a key-value head, one below the other."""
    return by_head.reshape(groups, -1, by_head.shape[-1])


def _by_head(by_group: Tensor, num_queries: int) -> Tensor:
    """[1, H, B, D] from [G, repeats * B, D]."""
    return by_group.reshape(1, -1, num_queries, by_group.shape[-1])
