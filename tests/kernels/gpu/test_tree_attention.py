"""Triton tree attention against the dense formula in float64: values, gradients, and what must never leak."""

import functools

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.kernels.gpu.forests import (
    DEVICE,
    TOLERANCE,
    forest,
    random_tensor,
    relative_error,
    visible_pairs,
)
from trieline.kernels.gpu.tree_attention_op import tree_attention_on_gpu, tree_attention_op
from trieline.kernels.gpu.tree_blocks import TreeBlocks, plan_tree_blocks
from trieline.kernels.preorder import depths

# Under the interpreter minutes; on a GPU, where `long` is not asked for, they run all the same.
pytestmark = pytest.mark.long
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def reference(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *, scale: float, softcap: float = 0.0
) -> Tensor:
    """softmax over visible keys; a query that sees none gets zeros."""
    group = q.shape[1] // k.shape[1]
    scores = scale * q @ k.repeat_interleave(group, 1).transpose(-1, -2)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores.masked_fill(~visible, -1e9), dim=-1) * visible
    return (weights @ v.repeat_interleave(group, 1)).transpose(1, 2)


def random_qkv(
    queries: int, keys: int, size: int, *, heads: tuple[int, int] = (2, 1), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """As models hand them over: [1, heads, tokens, size] views of [1, tokens, heads, size]."""

    def views(tokens: int, num_heads: int, seed: int) -> Tensor:
        by_token = random_tensor(1, tokens, num_heads, size, dtype=dtype, seed=seed)
        return by_token.transpose(1, 2).requires_grad_()

    return views(queries, heads[0], 0), views(keys, heads[1], 1), views(keys, heads[1], 2)


def compare(
    qkv: tuple[Tensor, Tensor, Tensor], blocks: TreeBlocks, *, scale: float, softcap: float = 0.0
) -> None:
    q, k, v = qkv
    out = tree_attention_on_gpu(q, k, v, blocks, scale=scale, softcap=softcap)
    assert out.dtype == q.dtype
    exact = [t.detach().double().requires_grad_() for t in qkv]
    visible = visible_pairs(blocks.subtree_end, blocks.query_offset, blocks.window)[: blocks.num_queries]
    want = reference(exact[0], exact[1], exact[2], visible, scale=scale, softcap=softcap)
    upstream = random_tensor(*out.shape, dtype=out.dtype, seed=9)
    gradients = torch.autograd.grad(out, qkv, upstream)
    wanted = torch.autograd.grad(want, exact, upstream.double())
    for name, got, expected in zip(["out", "q", "k", "v"], (out, *gradients), (want, *wanted), strict=True):
        error = relative_error(got, expected)
        assert error < TOLERANCE[q.dtype], f"{name}: {error}"


@pytest.mark.parametrize("num_tokens", [1, 15, 63, 64, 129, 300])
@pytest.mark.parametrize("fork", [0.0, 0.05, 0.5])
def test_equals_reference(num_tokens: int, fork: float) -> None:
    blocks = plan_tree_blocks(forest(num_tokens, seed=num_tokens, fork=fork))
    compare(random_qkv(num_tokens, num_tokens, 32), blocks, scale=0.3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
def test_equals_reference_in_every_precision_and_size(dtype: torch.dtype, size: int) -> None:
    blocks = plan_tree_blocks(forest(150, seed=size))
    compare(random_qkv(150, 150, size, dtype=dtype), blocks, scale=size**-0.5)


@pytest.mark.parametrize("heads", [(3, 3), (6, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_equals_reference_with_grouped_heads_and_softcap(heads: tuple[int, int], softcap: float) -> None:
    blocks = plan_tree_blocks(forest(100, seed=3))
    compare(random_qkv(100, 100, 32, heads=heads), blocks, scale=0.5, softcap=softcap)


@pytest.mark.parametrize(("offset", "queries"), [(77, 223), (64, 128), (299, 1), (130, 90)])
def test_segment_attends_to_keys_from_before(offset: int, queries: int) -> None:
    blocks = plan_tree_blocks(forest(300, seed=5), query_offset=offset, num_queries=queries)
    compare(random_qkv(queries, 300, 32), blocks, scale=0.3)


@pytest.mark.parametrize("window", [3, 40, 150])
@pytest.mark.parametrize(("offset", "queries"), [(0, 300), (77, 223)])
def test_a_window_equals_reference(window: int, offset: int, queries: int) -> None:
    # Chains longer than every window, and branches off them.
    ends = forest(300, seed=6, fork=0.02)
    depth = depths(ends)
    assert depth.max() > 150
    blocks = plan_tree_blocks(ends, query_offset=offset, num_queries=queries, window=window, depth=depth)
    compare(random_qkv(queries, 300, 32), blocks, scale=0.3, softcap=1.5 if offset else 0.0)


def test_long_trunk_is_cut_into_slices_and_stays_the_same_bit_for_bit() -> None:
    trunk, total = 130, 650
    branches = forest(total - trunk, seed=2, fork=0.01) + trunk
    ends = torch.cat([torch.full_like(branches[:trunk], total), branches])
    blocks = plan_tree_blocks(ends)
    assert (blocks.slices[0] > 1).any()
    qkv = random_qkv(total, total, 32, heads=(1, 1))
    compare(qkv, blocks, scale=0.3)
    twice = []
    for _ in range(2):
        out = tree_attention_on_gpu(qkv[0], qkv[1], qkv[2], blocks, scale=0.3)
        twice.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


def test_path_with_more_gaps_than_runs() -> None:
    # 128 tokens of trunk, a side branch of 128, trunk again: the last token sees every other piece.
    pieces, length = 132, 128
    total = pieces * length
    index = torch.arange(total)
    on_trunk = index // length % 2 == 0
    side_end = (index // length + 1) * length
    ends = torch.where(on_trunk, total, side_end).to(torch.int32).to(DEVICE)
    blocks = plan_tree_blocks(ends, query_offset=total - 20)
    assert blocks.num_runs.tolist() == [[0, 1]]
    compare(random_qkv(20, total, 32, heads=(1, 1)), blocks, scale=0.3)


def test_padding_gives_zeros() -> None:
    blocks = plan_tree_blocks(forest(90, seed=1, padding=70))
    qkv = random_qkv(160, 160, 32)
    compare(qkv, blocks, scale=0.3)
    out = tree_attention_on_gpu(qkv[0], qkv[1], qkv[2], blocks, scale=0.3)
    gradients = torch.autograd.grad(out.sum(), qkv)
    assert (out[:, 90:] == 0).all()
    assert all((g[:, :, 90:] == 0).all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_branches_change_nothing_bit_for_bit(dtype: torch.dtype) -> None:
    blocks = plan_tree_blocks(forest(300, seed=7))
    visible = visible_pairs(blocks.subtree_end)
    qkv = random_qkv(300, 300, 32, dtype=dtype)
    q, k, v = qkv
    row = int(visible.sum(1).argmax())
    path = visible[row]
    out = tree_attention_on_gpu(q, k, v, blocks, scale=0.3)[:, row]
    gradients = torch.autograd.grad(out.float().sum(), qkv)
    with torch.no_grad():
        q[:, :, ~path] *= -3
        k[:, :, ~path] *= -1e3
        v[:, :, ~path] += 1e3
    changed = tree_attention_on_gpu(q, k, v, blocks, scale=0.3)[:, row]
    assert torch.equal(out, changed)
    for before, after in zip(gradients, torch.autograd.grad(changed.float().sum(), qkv), strict=True):
        assert torch.equal(before, after)
        assert (after[:, :, ~path] == 0).all()
    assert (gradients[2][:, :, path] != 0).all()


def op_arguments(num_tokens: int) -> tuple[object, ...]:
    blocks = plan_tree_blocks(forest(num_tokens, seed=4))
    q, k, v = (t[0] for t in random_qkv(num_tokens, num_tokens, 32))
    plan = (blocks.subtree_end, blocks.depth, blocks.key_extent, blocks.runs, blocks.num_runs)
    return (
        *(t.detach().requires_grad_() for t in (q, k, v)),
        *plan,
        blocks.items,
        blocks.slices,
        blocks.schedule,
        0,
        0,
        0.3,
        0.0,
    )


@pytest.mark.parametrize("num_tokens", [15, 130])
def test_opcheck(num_tokens: int) -> None:
    torch.library.opcheck(tree_attention_op, op_arguments(num_tokens))


def test_compiles_and_checkpoints() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, blocks: TreeBlocks) -> Tensor:
        return tree_attention_on_gpu(q * 2, k, v, blocks, scale=0.3).square()

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    for num_tokens in (40, 75):
        blocks = plan_tree_blocks(forest(num_tokens, seed=4))
        qkv = random_qkv(num_tokens, num_tokens, 32)
        recomputed = functools.partial(checkpoint, attend, use_reentrant=False)
        plain, *others = (
            torch.autograd.grad(f(*qkv, blocks).sum(), qkv) for f in (attend, compiled, recomputed)
        )
        for gradients in others:
            for got, want in zip(gradients, plain, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_what_the_kernels_cannot_do_is_named() -> None:
    blocks = plan_tree_blocks(forest(20, seed=0))
    q, k, v = random_qkv(20, 20, 32)
    with pytest.raises(ValueError, match="expected a head size of 32, 64, 96, 128, 256, got 48"):
        tree_attention_on_gpu(*random_qkv(20, 20, 48), blocks, scale=1.0)
    with pytest.raises(ValueError, match=r"expected q, k and v of one dtype .* got torch.float64"):
        tree_attention_on_gpu(q.double(), k.double(), v.double(), blocks, scale=1.0)
    with pytest.raises(ValueError, match=r"got torch.float32, torch.float16"):
        tree_attention_on_gpu(q, k.half(), v, blocks, scale=1.0)
    with pytest.raises(ValueError, match="expected 20 queries and 20 keys as planned, got 19 and 20"):
        tree_attention_on_gpu(q[:, :, 1:], k, v, blocks, scale=1.0)
    with pytest.raises(ValueError, match="expected a scale above 0, got -1"):
        tree_attention_on_gpu(q, k, v, blocks, scale=-1.0)
    with pytest.raises(ValueError, match="multiple of the key heads, got 3 and 2"):
        tree_attention_on_gpu(*random_qkv(20, 20, 32, heads=(3, 2)), blocks, scale=1.0)
    with pytest.raises(ValueError, match="on one device"):
        tree_attention_on_gpu(q.to("meta"), k, v, blocks, scale=1.0)
    with pytest.raises(ValueError, match=r"expected subtree_end of \[keys\] in int32 or int64"):
        plan_tree_blocks(torch.zeros(3, device=DEVICE))
    with pytest.raises(ValueError, match="expected queries within the 20 keys, got 5 from 18 to 23"):
        plan_tree_blocks(blocks.subtree_end, query_offset=18, num_queries=5)
