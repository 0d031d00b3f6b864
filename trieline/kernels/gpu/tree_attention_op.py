"""Tree attention on the GPU as an operator of torch, which is what `torch.compile` and checkpointing see.

`trieline::tree_attention` and its backward have fake kernels and autograd, take the plan of `tree_blocks`
as tensors, and never wait for the device. Shapes: M queries, N keys, H query heads, G key-value heads, D
head size.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from trieline.kernels.gpu.tree_attention_backward import (
    add_slices_kernel,
    delta_kernel,
    keys_kernel,
    queries_kernel,
)
from trieline.kernels.gpu.tree_attention_forward import attend_kernel
from trieline.kernels.gpu.tree_blocks import KEY_BLOCK, TreeBlocks, num_slots

HEAD_DIMS = (32, 64, 96, 128, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = not isinstance(attend_kernel, triton.runtime.JITFunction)
"""Whether TRITON_INTERPRET was set when the kernels were imported: they run on CPU tensors then."""


class Tile(NamedTuple):
    """The shape of a kernel's program. `block_m` divides QUERY_BLOCK, `block_n` divides KEY_BLOCK."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


TILES = {
    # (kernel, bytes an element): by head size up to 64, 128 and 256.
    ("attend", 2): (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(64, 32, 8, 2)),
    ("keys", 2): (Tile(64, 64, 4, 2), Tile(64, 64, 8, 2), Tile(32, 32, 8, 2)),
    ("queries", 2): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(64, 16, 8, 2)),
    ("attend", 4): (Tile(64, 32, 4, 2), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1)),
    ("keys", 4): (Tile(32, 32, 4, 2), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1)),
    ("queries", 4): (Tile(32, 32, 4, 2), Tile(16, 32, 8, 1), Tile(16, 16, 8, 1)),
}
"""The largest of those tried that spill nothing on sm_90 without a softcap; float32 at 256 spills in all."""


def tile_of(kernel: str, dtype: torch.dtype, head_dim: int) -> Tile:
    """The tile of `kernel` (`attend`, `keys`, `queries`); `benchmarks/kernels_sm90.py` says what it takes."""
    return TILES[kernel, dtype.itemsize][0 if head_dim <= 64 else 1 if head_dim <= 128 else 2]


def dot_dtype(dtype: torch.dtype) -> Any:
    """What products take: the interpreter's product of bfloat16 is wrong, so it gets float32 there."""
    if INTERPRETED:
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]


def tree_attention_on_gpu(
    q: Tensor, k: Tensor, v: Tensor, blocks: TreeBlocks, *, scale: float, softcap: float = 0.0
) -> Tensor:
    """Attend `q` [1, H, M, D] to `k`, `v` [1, G, N, D]; H is a multiple of G. Returns [1, M, H, D].

    `softcap` > 0 caps scores: softcap * tanh(score / softcap). Raises ValueError for what kernels can't do.
    """
    _check(q, k, v, blocks, scale, softcap)
    out: Tensor = tree_attention_op(
        q[0],
        k[0],
        v[0],
        blocks.subtree_end,
        blocks.depth,
        blocks.key_extent,
        blocks.runs,
        blocks.num_runs,
        blocks.items,
        blocks.slices,
        blocks.schedule,
        blocks.query_offset,
        blocks.window,
        float(scale),
        float(softcap),
    )[0]
    return out[None]


def _check(q: Tensor, k: Tensor, v: Tensor, blocks: TreeBlocks, scale: float, softcap: float) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[0] != 1 or k.shape[0] != 1:
        msg = (
            "expected q of [1, heads, queries, size], k and v of [1, key heads, keys, size], "
            f"got {[*q.shape]}, {[*k.shape]} and {[*v.shape]}"
        )
    elif q.shape[2] != blocks.num_queries or k.shape[2] != blocks.num_keys:
        msg = (
            f"expected {blocks.num_queries} queries and {blocks.num_keys} keys as planned, "
            f"got {q.shape[2]} and {k.shape[2]}"
        )
    elif q.shape[3] not in HEAD_DIMS or q.shape[3] != k.shape[3]:
        msg = f"expected a head size of {', '.join(map(str, HEAD_DIMS))}, got {q.shape[3]} and {k.shape[3]}"
    elif k.shape[1] == 0 or q.shape[1] % k.shape[1] != 0:
        msg = f"expected query heads in a multiple of the key heads, got {q.shape[1]} and {k.shape[1]}"
    elif q.dtype not in DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        msg = f"expected q, k and v of one dtype among {names}, got {q.dtype}, {k.dtype} and {v.dtype}"
    elif len({t.device for t in (q, k, v, blocks.subtree_end)}) > 1:
        msg = (
            "expected q, k, v and the plan on one device, "
            f"got {q.device}, {k.device}, {v.device} and {blocks.subtree_end.device}"
        )
    elif q.device.type != "cuda" and not INTERPRETED:
        msg = f"expected tensors on a CUDA device, got {q.device}"
    elif softcap < 0:
        msg = f"expected a softcap of 0 (none) or more, got {softcap}"
    elif scale <= 0:
        msg = f"expected a scale above 0, got {scale}"
    else:
        return
    raise ValueError(msg)


@torch.library.custom_op("trieline::tree_attention", mutates_args=())
def tree_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    subtree_end: Tensor,
    depth: Tensor,
    key_extent: Tensor,
    runs: Tensor,
    num_runs: Tensor,
    items: Tensor,
    slices: Tensor,
    schedule: Tensor,
    query_offset: int,
    window: int,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """`out` [M, H, D] and `lse` [H, M] of `q` [H, M, D] over `k`, `v` [G, N, D]."""
    heads, num_queries, size = q.shape
    q, k, v = (_last_contiguous(t) for t in (q, k, v))
    out = q.new_empty(num_queries, heads, size)
    lse = q.new_empty(heads, num_queries, dtype=torch.float32)
    tile = tile_of("attend", q.dtype, size)
    if num_queries:
        attend_kernel[(triton.cdiv(num_queries, tile.block_m), heads)](
            q, k, v, out, lse, subtree_end, depth, runs, num_runs,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], out.stride(1), out.stride(0),
            num_queries, len(subtree_end), query_offset, window, scale, softcap,
            GROUP=heads // len(k), WINDOW=window > 0, SOFTCAP=softcap > 0, **_shape(tile, q),
        )  # fmt: skip
    return out, lse


@torch.library.custom_op("trieline::tree_attention_backward", mutates_args=())
def tree_attention_backward_op(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    subtree_end: Tensor,
    depth: Tensor,
    key_extent: Tensor,
    runs: Tensor,
    num_runs: Tensor,
    items: Tensor,
    slices: Tensor,
    schedule: Tensor,
    query_offset: int,
    window: int,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in memory as [tokens, heads, D], the order in which models have them."""
    heads, num_queries, size = q.shape
    key_heads, num_keys = k.shape[:2]
    q, k, v, grad_out = (_last_contiguous(t) for t in (q, k, v, grad_out))
    grad_q, grad_k, grad_v = (_by_token(t) for t in (q, k, v))
    if not num_queries:
        return grad_q, grad_k.zero_(), grad_v.zero_()
    delta = torch.empty_like(lse)
    grad_strides = (grad_out.stride(1), grad_out.stride(0))
    delta_kernel[(triton.cdiv(num_queries, 64), heads)](
        grad_out, out, delta, *grad_strides, out.stride(1), out.stride(0), num_queries,
        HEAD_DIM=size, BLOCK_D=triton.next_power_of_2(size), BLOCK_M=64,
    )  # fmt: skip
    common = {"GROUP": heads // key_heads, "WINDOW": window > 0, "SOFTCAP": softcap > 0}
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *grad_strides)

    tile = tile_of("keys", q.dtype, size)
    block_d, parts = triton.next_power_of_2(size), KEY_BLOCK // tile.block_n
    key_blocks = key_extent.shape[1]
    slots = num_slots(num_queries, num_keys)
    partial = lse.new_empty(slots, key_heads, 2, KEY_BLOCK, block_d)
    keys_kernel[(items.shape[1], key_heads, parts)](
        q, k, v, grad_out, lse, delta, grad_k, grad_v, partial, subtree_end, depth, key_extent, items,
        schedule,
        *strides, *grad_k.stride()[:2], num_queries, num_keys, query_offset, key_blocks, items.shape[1],
        window, scale, softcap, **common, **_shape(tile, q),
    )  # fmt: skip
    if slots:
        add_slices_kernel[(key_blocks, key_heads, parts)](
            partial, grad_k, grad_v, slices, *grad_k.stride()[:2], num_keys, key_blocks,
            HEAD_DIM=size, BLOCK_D=block_d, BLOCK_N=tile.block_n,
        )  # fmt: skip

    tile = tile_of("queries", q.dtype, size)
    queries_kernel[(triton.cdiv(num_queries, tile.block_m), heads)](
        q, k, v, grad_out, lse, delta, grad_q, subtree_end, depth, runs, num_runs,
        *strides, *grad_q.stride()[:2], num_queries, num_keys, query_offset, window, scale, softcap,
        **common, **_shape(tile, q),
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def _shape(tile: Tile, q: Tensor) -> dict[str, Any]:
    size = q.shape[-1]
    return {
        "HEAD_DIM": size,
        "BLOCK_D": triton.next_power_of_2(size),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "DOT": dot_dtype(q.dtype),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def _last_contiguous(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def _by_token(like: Tensor) -> Tensor:
    """Empty [heads, tokens, D] that lies in memory as [tokens, heads, D]."""
    heads, tokens, size = like.shape
    return like.new_empty(tokens, heads, size).transpose(0, 1)


@tree_attention_op.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    heads, num_queries, size = q.shape
    return q.new_empty(num_queries, heads, size), q.new_empty(heads, num_queries, dtype=torch.float32)


@tree_attention_backward_op.register_fake
def _(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _by_token(q), _by_token(k), _by_token(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.query_offset, ctx.window, ctx.scale, ctx.softcap = inputs
    q, k, v, *plan = tensors
    ctx.save_for_backward(q, k, v, *output, *plan)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    del grad_lse
    if grad_out is None:
        return (None,) * 15
    gradients = tree_attention_backward_op(
        grad_out, *ctx.saved_tensors, ctx.query_offset, ctx.window, ctx.scale, ctx.softcap
    )
    return (*gradients, *(None,) * 12)


tree_attention_op.register_autograd(_backward, setup_context=_setup_context)
