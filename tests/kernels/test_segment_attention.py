"""Attention of a segment below its ancestors against the dense formula, gradients of ancestors included."""

import pytest
import torch

from tests.kernels.test_tree_attention import SHAPES, forest, random_qkv
from trieline.kernels.cpu.precision import sum_dtype
from trieline.kernels.segment_attention import reference_segment_attention, segment_attention
from trieline.kernels.tree_plan import plan_tree_attention


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("num_above", [1, 300])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "reproducible"),
    [
        # Sums in another order; in float32 they run over several hundred keys.
        (torch.float64, 1e-12, True),
        (torch.float32, 2e-5, True),
        # Results are rounded to 8 bits: half a unit in the last place of numbers up to 8.
        (torch.bfloat16, 2**-5, True),
        (torch.bfloat16, 2**-5, False),
    ],
    ids=str,
)
def test_equals_the_dense_formula(
    shapes: list[tuple[int, int, int]],
    num_above: int,
    softcap: float,
    dtype: torch.dtype,
    tolerance: float,
    *,
    reproducible: bool,
) -> None:
    subtree_end = forest(shapes)
    tokens = len(subtree_end)
    q, k, v = random_qkv(tokens, dtype)
    _, k_above, v_above = random_qkv(num_above, dtype)
    inputs = [q, k, v, k_above, v_above]
    plan = plan_tree_attention(subtree_end, dtype=dtype, reproducible=reproducible)
    out = segment_attention(q, k, v, k_above, v_above, plan, scale=0.3, softcap=softcap)
    # Of the very same numbers, in float64.
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = reference_segment_attention(
        exact[0], exact[1], exact[2], exact[3], exact[4], subtree_end, scale=0.3, softcap=softcap
    )
    assert (out - expected).abs().max() < tolerance
    weights = torch.randn(out.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    # Keys below float32 that many segments see get their gradients in float32.
    for ancestors in (k_above, v_above):
        ancestors.grad_dtype = sum_dtype(dtype)
    got = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    for name, a, b in zip(("q", "k", "v", "k_above", "v_above"), got, wanted, strict=True):
        assert (a - b).norm() < 10 * tolerance * b.norm(), name


@pytest.mark.parametrize("num_above", [1, 300])
@pytest.mark.parametrize("window", [1, 7, 140])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_a_window_reaches_into_the_ancestors(num_above: int, window: int, softcap: float) -> None:
    subtree_end = forest(SHAPES[3])
    q, k, v = random_qkv(len(subtree_end), torch.float64)
    _, k_above, v_above = random_qkv(num_above, torch.float64)
    inputs = [q, k, v, k_above, v_above]
    plan = plan_tree_attention(subtree_end, dtype=torch.float64, num_above=num_above)
    out = segment_attention(q, k, v, k_above, v_above, plan.windowed(window), scale=0.3, softcap=softcap)
    expected = reference_segment_attention(
        q, k, v, k_above, v_above, subtree_end, scale=0.3, softcap=softcap, window=window
    )
    weights = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm().clamp_min(1)


def test_what_lies_behind_the_ancestors_may_change_before_the_backward() -> None:
    """The keys of a path stand in one piece of memory, and each segment reads the first of them."""
    subtree_end = forest([(5, 3, 4)])
    q, k, v = random_qkv(len(subtree_end), torch.float64)
    buffers = [torch.randn(1, 2, 9, 16, dtype=torch.float64) for _ in range(2)]
    above = [b[:, :, :6].detach().requires_grad_() for b in buffers]
    plan = plan_tree_attention(subtree_end, dtype=torch.float64)
    out = segment_attention(q, k, v, above[0], above[1], plan, scale=0.3)
    wanted = torch.autograd.grad(out.sum(), above, retain_graph=True)
    for buffer in buffers:
        buffer[:, :, 6:] = torch.nan
    for a, b in zip(torch.autograd.grad(out.sum(), above), wanted, strict=True):
        assert torch.equal(a, b)


def test_gradients_of_ancestors_below_float32_are_summed_in_float32() -> None:
    subtree_end = forest([(5, 3, 4)])
    q, k, v = random_qkv(len(subtree_end), torch.bfloat16)
    plan = plan_tree_attention(subtree_end, dtype=torch.bfloat16)
    above = []
    for generator_seed in range(2):
        generator = torch.Generator().manual_seed(generator_seed)
        leaf = torch.randn(1, 2, 6, 16, generator=generator).bfloat16().requires_grad_()
        leaf.grad_dtype = torch.float32
        leaf.grad = torch.zeros(leaf.shape)
        above.append(leaf)
    totals = [leaf.grad for leaf in above]
    torch.autograd.backward(segment_attention(q, k, v, above[0], above[1], plan, scale=0.3).sum())
    for leaf, total in zip(above, totals, strict=True):
        assert total is not None
        assert leaf.grad is total, "added in place"
        assert not torch.equal(total, total.bfloat16().float()), "not rounded on the way"


def test_wrong_shapes_are_refused() -> None:
    subtree_end = forest([(5, 3, 4)])
    q, k, v = random_qkv(4, torch.float32)
    plan = plan_tree_attention(subtree_end, dtype=torch.float32)
    with pytest.raises(ValueError, match="expected q and k of"):
        segment_attention(q, k, v, k, v, plan, scale=1.0)
