"""`slot_attention` by Triton: the keys of a sequence are cut into splits, whose results are merged.

Few new tokens see many keys, so a program takes the query heads of one key-value head and one split of the
keys: with few sequences, the splits are what fills the GPU. No number of tokens is a compile-time constant,
and nothing waits for the device, so that a CUDA graph can hold the calls.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED_DOT = tl.float32
"""The interpreter's product of bfloat16 is wrong."""
BLOCK = 64
SMALLEST_DOT = 16
"""Rows and columns that a product has at least: query heads of a group are padded to it."""
PROGRAMS = 264
"""Two for each multiprocessor of an H100: so many programs are aimed at by splitting keys."""
MOST_SPLITS = 16


@triton.jit
def split_kernel(
    Query,
    Keys,
    Values,
    Slots,
    Rows,
    Lengths,
    Partial,
    Largest,
    Total,
    scale,
    capacity,
    window,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):
    """One split: sums of 2^(score - largest) and of the values under them, for each query head of a group.

    Query [M, H, G, D], Keys [P, H, D], Values [P, H, W], Slots [R, C]; Partial [M, H, S, GROUP_BLOCK, W],
    Largest and Total [M, H, S, GROUP_BLOCK]. `scale` is that of a softmax of base 2; a `window` of `capacity`
    hides nothing.
    """
    one = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    num_splits = tl.num_programs(2)
    length = tl.load(Lengths + one)
    row = tl.load(Rows + one)
    g = tl.arange(0, GROUP_BLOCK)
    d = tl.arange(0, KEY_BLOCK)
    w = tl.arange(0, VALUE_BLOCK)
    q = tl.load(
        Query + ((one * HEADS + head) * GROUP + g[:, None]) * KEY_WIDTH + d[None, :],
        mask=(g[:, None] < GROUP) & (d[None, :] < KEY_WIDTH),
        other=0.0,
    ).to(DOT)
    high = tl.full((GROUP_BLOCK,), float("-inf"), tl.float32)
    weight = tl.zeros((GROUP_BLOCK,), tl.float32)
    out = tl.zeros((GROUP_BLOCK, VALUE_BLOCK), tl.float32)
    begin = tl.maximum(length - window, 0)
    first = begin // BLOCK_N
    stop = tl.cdiv(length, BLOCK_N)
    share = tl.cdiv(stop - first, num_splits)
    for block in range(first + split * share, tl.minimum(first + (split + 1) * share, stop)):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        seen = (n >= begin) & (n < length)
        slot = tl.load(Slots + row * capacity + n, mask=seen, other=0).to(tl.int64)
        k = tl.load(
            Keys + (slot[:, None] * HEADS + head) * KEY_WIDTH + d[None, :],
            mask=seen[:, None] & (d[None, :] < KEY_WIDTH),
            other=0.0,
        ).to(DOT)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(high, tl.max(scores, 1))
        shrink = tl.exp2(high - higher)
        p = tl.exp2(scores - higher[:, None])
        v = tl.load(
            Values + (slot[:, None] * HEADS + head) * VALUE_WIDTH + w[None, :],
            mask=seen[:, None] & (w[None, :] < VALUE_WIDTH),
            other=0.0,
        ).to(DOT)
        out = out * shrink[:, None] + tl.dot(p.to(DOT), v, input_precision="ieee")
        weight = weight * shrink + tl.sum(p, 1)
        high = higher
    place = ((one * HEADS + head) * num_splits + split) * GROUP_BLOCK + g
    tl.store(Largest + place, high)
    tl.store(Total + place, weight)
    tl.store(Partial + place[:, None] * VALUE_WIDTH + w[None, :], out, mask=(w[None, :] < VALUE_WIDTH))


@triton.jit
def merge_kernel(
    Partial,
    Largest,
    Total,
    Out,
    num_splits,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
):
    """Add the splits of a sequence and a head up, each by its largest score: Out [M, H, G, W]."""
    one = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    g = tl.arange(0, GROUP_BLOCK)
    w = tl.arange(0, VALUE_BLOCK)
    high = tl.full((GROUP_BLOCK,), float("-inf"), tl.float32)
    weight = tl.zeros((GROUP_BLOCK,), tl.float32)
    sums = tl.zeros((GROUP_BLOCK, VALUE_BLOCK), tl.float32)
    # The first split has keys always, so nothing is -inf minus -inf.
    for split in range(num_splits):
        place = ((one * HEADS + head) * num_splits + split) * GROUP_BLOCK + g
        found = tl.load(Largest + place)
        higher = tl.maximum(high, found)
        keep, add = tl.exp2(high - higher), tl.exp2(found - higher)
        part = tl.load(
            Partial + place[:, None] * VALUE_WIDTH + w[None, :], mask=(w[None, :] < VALUE_WIDTH), other=0.0
        )
        sums = sums * keep[:, None] + part * add[:, None]
        weight = weight * keep + tl.load(Total + place) * add
        high = higher
    tl.store(
        Out + ((one * HEADS + head) * GROUP + g[:, None]) * VALUE_WIDTH + w[None, :],
        (sums / weight[:, None]).to(Out.dtype.element_ty),
        mask=(g[:, None] < GROUP) & (w[None, :] < VALUE_WIDTH),
    )


LOG2_E = 1.4426950408889634


def slot_attention_on_gpu(
    query_MQD: Tensor,
    keys_PHD: Tensor,
    values_PHW: Tensor,
    slots_RC: Tensor,
    rows_M: Tensor,
    lengths_M: Tensor,
    *,
    scale: float,
    window: int = 0,
    num_splits: int | None = None,
) -> Tensor:
    """As `slot_attention`. `num_splits`: of the keys of a sequence; None: as many as fill a GPU."""
    count, queries, key_width = query_MQD.shape
    heads, value_width = values_PHW.shape[1:]
    _expect_layout(keys_PHD, values_PHW, slots_RC)
    splits = num_splits or splits_for(count * heads)
    group_block = max(SMALLEST_DOT, triton.next_power_of_2(queries // heads))
    per_split = (count, heads, splits, group_block)
    partial = query_MQD.new_empty(*per_split, value_width, dtype=torch.float32)
    largest, total = (query_MQD.new_empty(*per_split, dtype=torch.float32) for _ in range(2))
    out = query_MQD.new_empty(count, queries, value_width)
    value_block = max(SMALLEST_DOT, triton.next_power_of_2(value_width))
    split_kernel[(count, heads, splits)](
        query_MQD.contiguous(),
        keys_PHD,
        values_PHW,
        slots_RC,
        rows_M,
        lengths_M,
        partial,
        largest,
        total,
        scale * LOG2_E,
        slots_RC.shape[1],
        window or slots_RC.shape[1],
        HEADS=heads,
        GROUP=queries // heads,
        GROUP_BLOCK=group_block,
        KEY_WIDTH=key_width,
        VALUE_WIDTH=value_width,
        KEY_BLOCK=max(SMALLEST_DOT, triton.next_power_of_2(key_width)),
        VALUE_BLOCK=value_block,
        BLOCK_N=BLOCK,
        DOT=_dot_dtype(query_MQD.dtype),
        num_warps=4,
        num_stages=2,
    )
    merge_kernel[(count, heads)](
        partial,
        largest,
        total,
        out,
        splits,
        HEADS=heads,
        GROUP=queries // heads,
        GROUP_BLOCK=group_block,
        VALUE_WIDTH=value_width,
        VALUE_BLOCK=value_block,
    )
    return out


def splits_for(programs: int) -> int:
    """How often to split the keys if each sequence and head is a program."""
    return max(1, min(MOST_SPLITS, PROGRAMS // max(1, programs)))


def _dot_dtype(dtype: torch.dtype) -> Any:
    if not isinstance(split_kernel, triton.runtime.JITFunction):
        return INTERPRETED_DOT
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]


def _expect_layout(keys: Tensor, values: Tensor, slots: Tensor) -> None:
    if not (keys.is_contiguous() and values.is_contiguous() and slots.is_contiguous()):
        msg = "expected contiguous keys, values and slots, got views with strides"
        raise ValueError(msg)
    if slots.dtype != torch.int32:
        msg = f"expected slots in int32, got {slots.dtype}"
        raise TypeError(msg)
