"""Forward kernel of tree attention, and the scores that its backward computes again.

    s[i, j] = scale * q[i] . k[j], or softcap * tanh(that / softcap)
    lse[i]  = log2 sum over visible j of 2^(s[i, j] log2 e)
    out[i]  = sum over visible j of 2^(s[i, j] log2 e - lse[i]) v[j]

One program takes BLOCK_M queries of one head and walks the runs of `tree_blocks`: full ones without a mask,
then partial ones. A row that sees nothing has out 0 and lse +inf, so that 2^(s - lse) is 0 in the backward
too.

Letters in all kernels: h query head, g key head, m row of a query, n row of a key, d channel. Rows of `Q`,
`Out` and `Lse` count from `query_offset`, which is the place of the first query among the keys.
"""

import triton
import triton.language as tl

from trieline.kernels.gpu.tree_blocks import KEY_BLOCK, MAX_RUNS, QUERY_BLOCK

PRECISION = tl.constexpr("tf32x3")
"""Of products of float32: three products in tf32 of the high and low parts, as exact as float32 to about
1e-6. Half precision has one product, whatever this says."""
LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)
"""Where a running maximum starts: below every score, and finite, or rows that see nothing give NaN."""
_QUERY_BLOCK = tl.constexpr(QUERY_BLOCK)
_KEY_BLOCK = tl.constexpr(KEY_BLOCK)
_MAX_RUNS = tl.constexpr(MAX_RUNS)


@triton.jit
def load_rows(
    Base,
    stride,
    first,
    num_rows,
    BLOCK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT: tl.constexpr,
):
    """[BLOCK, BLOCK_D] rows from `first` on, zeros beyond `num_rows` and HEAD_DIM, ready for a product."""
    rows = tl.arange(0, BLOCK)
    channels = tl.arange(0, BLOCK_D)
    pointers = Base + tl.cast(first, tl.int64) * stride + rows[:, None] * stride + channels[None, :]
    inside = (first + rows < num_rows)[:, None]
    if HEAD_DIM < BLOCK_D:
        inside = inside & (channels < HEAD_DIM)[None, :]
    return tl.load(pointers, mask=inside, other=0.0).to(DOT)


@triton.jit
def scores(products, scale, softcap, SOFTCAP: tl.constexpr):
    """Of products q . k: x and a factor > 0, x * factor the score in units of log2 e, and its derivative.

    The derivative is by scale * q . k. The factor stays apart, so that x * factor - y is one operation.
    """
    if SOFTCAP:
        # tanh(x) = 1 - 2 / (1 + e^2x), which holds at both infinities too.
        capped = 1.0 - 2.0 / (1.0 + tl.exp2(products * (scale * 2.0 * LOG2_E / softcap)))
        return capped, softcap * LOG2_E, 1.0 - capped * capped
    else:  # Not only style: Triton compiles what follows a return.
        return products, scale * LOG2_E, 1.0


@triton.jit
def is_seen(queries, keys, ends, query_depth, key_depth, window, WINDOW: tl.constexpr):
    """Whether queries see keys, of any shapes that broadcast. `ends`: `subtree_end` of the keys."""
    visible = (keys <= queries) & (queries < ends)
    if WINDOW:
        visible = visible & (query_depth - key_depth < window)
    return visible


@triton.jit
def load_depths(Depth, tokens, num_keys, WINDOW: tl.constexpr):
    """Those of `tokens`, which count from the first key; without a window they are not needed, and 0."""
    if WINDOW:
        return tl.load(Depth + tokens, mask=tokens < num_keys, other=0)
    else:  # Not only style: Triton compiles what follows a return.
        return tl.zeros_like(tokens)


@triton.jit
def _attend(
    accumulator,
    total,
    largest,
    q,
    K,
    V,
    SubtreeEnd,
    Depth,
    stride_kn,
    stride_vn,
    Runs,
    num_runs,
    queries,
    num_keys,
    window,
    scale,
    softcap,
    MASKED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):
    """Add the keys of all full or all partial runs to the running sums of the queries."""
    for run in range(num_runs):
        start = tl.load(Runs + run) * _KEY_BLOCK
        stop = tl.load(Runs + _MAX_RUNS + run) * _KEY_BLOCK
        for n0 in range(start, stop, BLOCK_N):
            k = load_rows(K, stride_kn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)
            products = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            s, factor, _ = scores(products, scale, softcap, SOFTCAP)
            if MASKED:
                keys = n0 + tl.arange(0, BLOCK_N)
                ends = tl.load(SubtreeEnd + keys, mask=keys < num_keys, other=0)
                far = load_depths(Depth, queries, num_keys, WINDOW)
                near = load_depths(Depth, keys, num_keys, WINDOW)
                visible = is_seen(
                    queries[:, None], keys[None, :], ends[None, :], far[:, None], near[None, :],
                    window, WINDOW,
                )  # fmt: skip
                s = tl.where(visible, s, float("-inf"))
            larger = tl.maximum(largest, tl.max(s, axis=1) * factor)
            shrink = tl.exp2(largest - larger)
            p = tl.exp2(s * factor - larger[:, None])
            total = total * shrink + tl.sum(p, axis=1)
            accumulator = accumulator * shrink[:, None]
            v = load_rows(V, stride_vn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)
            weights = p.to(V.dtype.element_ty).to(DOT)
            accumulator = tl.dot(weights, v, accumulator, input_precision=PRECISION)
            largest = larger
    return accumulator, total, largest


@triton.jit(do_not_specialize=["num_queries", "num_keys", "query_offset", "window"])
def attend_kernel(
    Q,
    K,
    V,
    Out,
    Lse,
    SubtreeEnd,
    Depth,
    Runs,
    NumRuns,
    stride_qh,
    stride_qm,
    stride_kg,
    stride_kn,
    stride_vg,
    stride_vn,
    stride_oh,
    stride_om,
    num_queries,
    num_keys,
    query_offset,
    window,
    scale,
    softcap,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DOT: tl.constexpr,
):
    """`Out` [m, h, d] and `Lse` [h, m] of BLOCK_M queries of one head."""
    # The last queries see most: they start first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    m0 = block * BLOCK_M
    rows = m0 + tl.arange(0, BLOCK_M)
    queries = query_offset + rows
    planned = m0 // _QUERY_BLOCK
    Runs += planned * 4 * _MAX_RUNS
    K += (head // GROUP).to(tl.int64) * stride_kg
    V += (head // GROUP).to(tl.int64) * stride_vg
    q = load_rows(
        Q + head.to(tl.int64) * stride_qh, stride_qm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, DOT
    )
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], LOWEST, tl.float32)
    for masked in tl.static_range(2):
        accumulator, total, largest = _attend(
            accumulator, total, largest, q, K, V, SubtreeEnd, Depth, stride_kn, stride_vn,
            Runs + 2 * masked * _MAX_RUNS, tl.load(NumRuns + 2 * planned + masked),
            queries, num_keys, window, scale, softcap, masked == 1,
            WINDOW, SOFTCAP, HEAD_DIM, BLOCK_D, BLOCK_N, DOT,
        )  # fmt: skip
    sees = total > 0
    total = tl.where(sees, total, 1.0)
    out = accumulator / total[:, None]
    lse = tl.where(sees, largest + tl.log2(total), float("inf"))
    channels = tl.arange(0, BLOCK_D)
    inside = (rows < num_queries)[:, None] & (channels < HEAD_DIM)[None, :]
    pointers = Out + head * stride_oh + rows.to(tl.int64)[:, None] * stride_om + channels[None, :]
    tl.store(pointers, out.to(Out.dtype.element_ty), mask=inside)
    tl.store(Lse + head.to(tl.int64) * num_queries + rows, lse, mask=rows < num_queries)
