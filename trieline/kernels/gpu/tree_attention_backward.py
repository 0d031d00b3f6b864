"""Backward kernels of tree attention: delta, dK and dV, the sum of their slices, and dQ.

With p[i, j] = 2^(s[i, j] log2 e - lse[i]) on visible pairs, and go the gradient of `out`:

    delta[i] = sum over d of go[i, d] out[i, d]
    dv[j]    = sum over i of p[i, j] go[i]
    ds[i, j] = p[i, j] (go[i] . v[j] - delta[i]), times 1 - tanh^2 under a softcap
    dk[j]    = scale * sum over i of ds[i, j] q[i]
    dq[i]    = scale * sum over j of ds[i, j] k[j]

Every sum has one program and one order, so that gradients are the same bit for bit each time. A block of keys
that many queries see is cut into slices (`tree_blocks`), whose partial sums are float32 and added in order.
"""

import triton
import triton.language as tl

from trieline.kernels.gpu.tree_attention_forward import PRECISION, is_seen, load_depths, load_rows, scores
from trieline.kernels.gpu.tree_blocks import KEY_BLOCK, MAX_RUNS, QUERY_BLOCK

_QUERY_BLOCK = tl.constexpr(QUERY_BLOCK)
_KEY_BLOCK = tl.constexpr(KEY_BLOCK)
_MAX_RUNS = tl.constexpr(MAX_RUNS)


@triton.jit(do_not_specialize=["num_queries"])
def delta_kernel(
    GradOut,
    Out,
    Delta,
    stride_gh,
    stride_gm,
    stride_oh,
    stride_om,
    num_queries,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """`Delta` [h, m] of BLOCK_M queries of one head."""
    m0 = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    grad = load_rows(
        GradOut + head * stride_gh, stride_gm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, tl.float32
    )
    out = load_rows(
        Out + head * stride_oh, stride_om, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, tl.float32
    )
    rows = m0 + tl.arange(0, BLOCK_M)
    tl.store(Delta + head * num_queries + rows, tl.sum(grad * out, axis=1), mask=rows < num_queries)


@triton.jit
def _add_queries(
    grad_k,
    grad_v,
    k,
    v,
    Q,
    GradOut,
    Lse,
    Delta,
    stride_qh,
    stride_qm,
    stride_gh,
    stride_gm,
    query_head,
    m0,
    num_queries,
    queries,
    keys,
    ends,
    far,
    near,
    masked,
    window,
    scale,
    softcap,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DOT: tl.constexpr,
):
    """Add one tile of queries of one head to dK / scale and dV of a block of keys."""
    rows = m0 + tl.arange(0, BLOCK_M)
    q = load_rows(Q + query_head * stride_qh, stride_qm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, DOT)
    lse = tl.load(Lse + query_head * num_queries + rows, mask=rows < num_queries, other=float("inf"))
    products = tl.dot(k, tl.trans(q), input_precision=PRECISION)
    s_t, factor, slope_t = scores(products, scale, softcap, SOFTCAP)
    p_t = tl.exp2(s_t * factor - lse[None, :])
    if masked:
        visible = is_seen(
            queries[None, :], keys[:, None], ends[:, None], far[None, :], near[:, None], window, WINDOW
        )
        p_t = tl.where(visible, p_t, 0.0)
    grad_out = load_rows(
        GradOut + query_head * stride_gh, stride_gm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, DOT
    )
    grad_p_t = tl.dot(v, tl.trans(grad_out), input_precision=PRECISION)
    weights = p_t.to(Q.dtype.element_ty).to(DOT)
    grad_v = tl.dot(weights, grad_out, grad_v, input_precision=PRECISION)
    delta = tl.load(Delta + query_head * num_queries + rows, mask=rows < num_queries, other=0.0)
    grad_s_t = p_t * (grad_p_t - delta[None, :]) * slope_t
    grad_k = tl.dot(grad_s_t.to(Q.dtype.element_ty).to(DOT), q, grad_k, input_precision=PRECISION)
    return grad_k, grad_v


@triton.jit(
    do_not_specialize=["num_queries", "num_keys", "query_offset", "key_blocks", "max_items", "window"]
)
def keys_kernel(
    Q,
    K,
    V,
    GradOut,
    Lse,
    Delta,
    GradK,
    GradV,
    Partial,
    SubtreeEnd,
    Depth,
    KeyExtent,
    Items,
    Schedule,
    stride_qh,
    stride_qm,
    stride_kg,
    stride_kn,
    stride_vg,
    stride_vn,
    stride_gh,
    stride_gm,
    stride_dg,
    stride_dn,
    num_queries,
    num_keys,
    query_offset,
    key_blocks,
    max_items,
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
    """dK and dV of one item of one key head. Axis 2 of the grid counts the BLOCK_N parts of a key block.

    Whole, they go into `GradK`, `GradV` [n, g, d]; slices into `Partial` [slot, g, 2, KEY_BLOCK, BLOCK_D].
    """
    item = tl.program_id(0)
    if item >= tl.load(Schedule):
        return
    head = tl.program_id(1)
    part = tl.program_id(2)
    block = tl.load(Items + item)
    first_block = tl.load(Items + max_items + item)
    stop_block = tl.load(Items + 2 * max_items + item)
    slot = tl.load(Items + 3 * max_items + item)
    least = tl.load(KeyExtent + block)
    greatest = tl.load(KeyExtent + key_blocks + block)

    n0 = block * _KEY_BLOCK + part * BLOCK_N
    keys = n0 + tl.arange(0, BLOCK_N)
    ends = tl.load(SubtreeEnd + keys, mask=keys < num_keys, other=0)
    k = load_rows(K + head.to(tl.int64) * stride_kg, stride_kn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)
    near = load_depths(Depth, keys, num_keys, WINDOW)
    v = load_rows(V + head.to(tl.int64) * stride_vg, stride_vn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)

    # Tiles of queries: those of full_first:full_stop see all keys, the others of first:stop need the mask.
    seen_from = tl.maximum(n0 - query_offset, 0)
    seen_to = tl.maximum(tl.minimum(greatest - query_offset, num_queries), 0)
    first = tl.maximum(first_block * (_QUERY_BLOCK // BLOCK_M), seen_from // BLOCK_M)
    stop = tl.minimum(stop_block * (_QUERY_BLOCK // BLOCK_M), tl.cdiv(seen_to, BLOCK_M))
    full_first = tl.cdiv(tl.maximum(n0 + BLOCK_N - 1 - query_offset, 0), BLOCK_M)
    full_stop = tl.maximum(least - query_offset, 0) // BLOCK_M
    # Rows beyond the last query weigh nothing, with or without mask.
    full_stop = tl.where(least - query_offset >= num_queries, stop, full_stop)
    tiles = tl.maximum(stop - first, 0)

    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for step in range(tiles * GROUP):
        query_head = tl.cast(head * GROUP + step // tiles, tl.int64)
        tile = first + step % tiles
        m0 = tile * BLOCK_M
        queries = query_offset + m0 + tl.arange(0, BLOCK_M)
        far = load_depths(Depth, queries, num_keys, WINDOW)
        masked = (tile < full_first) | (tile >= full_stop)
        if WINDOW:
            # Rows beyond the last query have depth 0: at most a tile too many is looked at.
            if tl.min(far, axis=0) - tl.max(near, axis=0) < window:
                grad_k, grad_v = _add_queries(
                    grad_k, grad_v, k, v, Q, GradOut, Lse, Delta, stride_qh, stride_qm, stride_gh, stride_gm,
                    query_head, m0, num_queries, queries, keys, ends, far, near, True, window, scale, softcap,
                    WINDOW, SOFTCAP, HEAD_DIM, BLOCK_D, BLOCK_M, DOT,
                )  # fmt: skip
        else:
            grad_k, grad_v = _add_queries(
                grad_k, grad_v, k, v, Q, GradOut, Lse, Delta, stride_qh, stride_qm, stride_gh, stride_gm,
                query_head, m0, num_queries, queries, keys, ends, far, near, masked, window, scale, softcap,
                WINDOW, SOFTCAP, HEAD_DIM, BLOCK_D, BLOCK_M, DOT,
            )  # fmt: skip
    grad_k *= scale

    channels = tl.arange(0, BLOCK_D)
    if slot < 0:
        inside = (keys < num_keys)[:, None] & (channels < HEAD_DIM)[None, :]
        pointers = head * stride_dg + keys.to(tl.int64)[:, None] * stride_dn + channels[None, :]
        tl.store(GradK + pointers, grad_k.to(GradK.dtype.element_ty), mask=inside)
        tl.store(GradV + pointers, grad_v.to(GradV.dtype.element_ty), mask=inside)
    else:
        rows = part * BLOCK_N + tl.arange(0, BLOCK_N)
        base = Partial + (tl.cast(slot, tl.int64) * tl.num_programs(1) + head) * 2 * _KEY_BLOCK * BLOCK_D
        offsets = rows[:, None] * BLOCK_D + channels[None, :]
        tl.store(base + offsets, grad_k)
        tl.store(base + _KEY_BLOCK * BLOCK_D + offsets, grad_v)


@triton.jit(do_not_specialize=["num_keys", "key_blocks"])
def add_slices_kernel(
    Partial,
    GradK,
    GradV,
    Slices,
    stride_dg,
    stride_dn,
    num_keys,
    key_blocks,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the partial sums of a block of keys that was cut. The grid is (key blocks, key heads, parts)."""
    block = tl.program_id(0)
    number = tl.load(Slices + block)
    if number < 2:
        return
    head = tl.program_id(1)
    part = tl.program_id(2)
    first_slot = tl.load(Slices + key_blocks + block)
    rows = part * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = tl.arange(0, BLOCK_D)
    offsets = rows[:, None] * BLOCK_D + channels[None, :]
    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for slot in range(first_slot, first_slot + number):
        base = Partial + (tl.cast(slot, tl.int64) * tl.num_programs(1) + head) * 2 * _KEY_BLOCK * BLOCK_D
        grad_k += tl.load(base + offsets)
        grad_v += tl.load(base + _KEY_BLOCK * BLOCK_D + offsets)
    keys = block * _KEY_BLOCK + rows
    inside = (keys < num_keys)[:, None] & (channels < HEAD_DIM)[None, :]
    pointers = head * stride_dg + keys.to(tl.int64)[:, None] * stride_dn + channels[None, :]
    tl.store(GradK + pointers, grad_k.to(GradK.dtype.element_ty), mask=inside)
    tl.store(GradV + pointers, grad_v.to(GradV.dtype.element_ty), mask=inside)


@triton.jit
def _gather_keys(
    grad_q,
    q,
    grad_out,
    lse,
    delta,
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
    """Add the keys of all full or all partial runs to dQ / scale."""
    for run in range(num_runs):
        start = tl.load(Runs + run) * _KEY_BLOCK
        stop = tl.load(Runs + _MAX_RUNS + run) * _KEY_BLOCK
        for n0 in range(start, stop, BLOCK_N):
            k = load_rows(K, stride_kn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)
            products = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            s, factor, slope = scores(products, scale, softcap, SOFTCAP)
            p = tl.exp2(s * factor - lse[:, None])
            if MASKED:
                keys = n0 + tl.arange(0, BLOCK_N)
                ends = tl.load(SubtreeEnd + keys, mask=keys < num_keys, other=0)
                far = load_depths(Depth, queries, num_keys, WINDOW)
                near = load_depths(Depth, keys, num_keys, WINDOW)
                visible = is_seen(
                    queries[:, None], keys[None, :], ends[None, :], far[:, None], near[None, :],
                    window, WINDOW,
                )  # fmt: skip
                p = tl.where(visible, p, 0.0)
            v = load_rows(V, stride_vn, n0, num_keys, BLOCK_N, HEAD_DIM, BLOCK_D, DOT)
            grad_p = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
            grad_s = p * (grad_p - delta[:, None]) * slope
            grad_q = tl.dot(grad_s.to(K.dtype.element_ty).to(DOT), k, grad_q, input_precision=PRECISION)
    return grad_q


@triton.jit(do_not_specialize=["num_queries", "num_keys", "query_offset", "window"])
def queries_kernel(
    Q,
    K,
    V,
    GradOut,
    Lse,
    Delta,
    GradQ,
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
    stride_gh,
    stride_gm,
    stride_dh,
    stride_dm,
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
    """`GradQ` [m, h, d] of BLOCK_M queries of one head."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    m0 = block * BLOCK_M
    rows = m0 + tl.arange(0, BLOCK_M)
    planned = m0 // _QUERY_BLOCK
    Runs += planned * 4 * _MAX_RUNS
    offset = head.to(tl.int64)
    K += (head // GROUP).to(tl.int64) * stride_kg
    V += (head // GROUP).to(tl.int64) * stride_vg
    q = load_rows(Q + offset * stride_qh, stride_qm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, DOT)
    grad_out = load_rows(
        GradOut + offset * stride_gh, stride_gm, m0, num_queries, BLOCK_M, HEAD_DIM, BLOCK_D, DOT
    )
    lse = tl.load(Lse + offset * num_queries + rows, mask=rows < num_queries, other=float("inf"))
    delta = tl.load(Delta + offset * num_queries + rows, mask=rows < num_queries, other=0.0)
    grad_q = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for masked in tl.static_range(2):
        grad_q = _gather_keys(
            grad_q, q, grad_out, lse, delta, K, V, SubtreeEnd, Depth, stride_kn, stride_vn,
            Runs + 2 * masked * _MAX_RUNS, tl.load(NumRuns + 2 * planned + masked),
            query_offset + rows, num_keys, window, scale, softcap, masked == 1,
            WINDOW, SOFTCAP, HEAD_DIM, BLOCK_D, BLOCK_N, DOT,
        )  # fmt: skip
    grad_q *= scale
    channels = tl.arange(0, BLOCK_D)
    inside = (rows < num_queries)[:, None] & (channels < HEAD_DIM)[None, :]
    pointers = GradQ + head * stride_dh + rows.to(tl.int64)[:, None] * stride_dm + channels[None, :]
    tl.store(pointers, grad_q.to(GradQ.dtype.element_ty), mask=inside)
