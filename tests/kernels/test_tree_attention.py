"""Blocked tree attention against its dense reference, and what it may never let through."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trieline.kernels.preorder import depths
from trieline.kernels.tree_attention import reference_tree_attention, tree_attention, visible_pairs
from trieline.kernels.tree_plan import plan_tree_attention
from trieline.learner.batch.trie import build_trie

# Forests by the lengths of (trunk, number of branches, branch): none, short, and far beyond one block.
SHAPES = [
    [(1, 1, 1)],
    [(5, 3, 4)],
    [(3, 8, 1), (1, 1, 1), (7, 2, 40)],
    [(150, 4, 30), (20, 12, 9)],
    [(300, 3, 200)],
    [(700, 2, 150), (1, 40, 3)],
    # Trunks below a short chain, and below a trunk.
    [(5, 1, 520)],
    [(300, 1, 520), (2, 1, 1)],
]


def forest(shapes: list[tuple[int, int, int]], seed: int = 0) -> Tensor:
    """subtree_end of tries whose branches fork again in their middle."""
    rng = np.random.default_rng(seed)
    sequences = []
    for i, (trunk_length, branches, length) in enumerate(shapes):
        trunk = np.concatenate([[i], rng.integers(0, 4, trunk_length)])
        for _ in range(branches):
            branch = rng.integers(0, 4, length)
            again = np.concatenate([branch[: length // 2], rng.integers(0, 4, length)])
            sequences += [np.concatenate([trunk, b]).astype(np.int32) for b in (branch, again)]
        sequences.append(trunk.astype(np.int32))
    return torch.from_numpy(build_trie(sequences).subtree_end)


def random_qkv(tokens: int, dtype: torch.dtype, *, heads: int = 6, groups: int = 2) -> list[Tensor]:
    """As transformers hands them over: [1, heads, T, size] views of [1, T, heads, size]."""
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, tokens, h, 16, dtype=torch.float64, generator=generator)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for h in (heads, groups, groups)
    ]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "reproducible"),
    [
        (torch.float64, 1e-12, True),
        (torch.float32, 2e-5, True),
        # Results are rounded to 8 bits: half a unit in the last place of numbers up to 8.
        (torch.bfloat16, 2**-5, True),
        (torch.bfloat16, 2**-5, False),
    ],
    ids=str,
)
def test_equals_reference(
    shapes: list[tuple[int, int, int]],
    softcap: float,
    dtype: torch.dtype,
    tolerance: float,
    *,
    reproducible: bool,
) -> None:
    subtree_end = forest(shapes)
    q, k, v = random_qkv(len(subtree_end), dtype)
    plan = plan_tree_attention(subtree_end, dtype=dtype, reproducible=reproducible)
    out = tree_attention(q, k, v, plan, scale=0.25, softcap=softcap)
    # Of the very same numbers, in float64.
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    expected = reference_tree_attention(
        exact[0], exact[1], exact[2], subtree_end, scale=0.25, softcap=softcap
    )
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    gradients = torch.autograd.grad(out, (q, k, v), upstream)
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    for got, want in zip(gradients, wanted, strict=True):
        error = (got.double() - want).norm() / want.norm()
        assert error < tolerance, error


@pytest.mark.parametrize("shapes", [SHAPES[2], SHAPES[3], SHAPES[7]], ids=str)
@pytest.mark.parametrize("window", [1, 7, 140])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_a_window_equals_reference(shapes: list[tuple[int, int, int]], window: int, softcap: float) -> None:
    subtree_end = forest(shapes)
    q, k, v = random_qkv(len(subtree_end), torch.float64)
    plan = plan_tree_attention(subtree_end, dtype=torch.float64)
    out = tree_attention(q, k, v, plan.windowed(window), scale=0.25, softcap=softcap)
    expected = reference_tree_attention(q, k, v, subtree_end, scale=0.25, softcap=softcap, window=window)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, (q, k, v), upstream)
    wanted = torch.autograd.grad(expected, (q, k, v), upstream)
    for got, want in zip(gradients, wanted, strict=True):
        assert (got - want).norm() <= 1e-12 * want.norm().clamp_min(1)


def test_a_window_shows_the_last_tokens_of_the_path() -> None:
    subtree_end = torch.tensor([6, 6, 4, 4, 6, 6, 8, 8])  # 0 1 (2 3) (4 5), 6 7
    assert depths(subtree_end).tolist() == [0, 1, 2, 3, 2, 3, 0, 1]
    shown = [row.nonzero()[:, 0].tolist() for row in visible_pairs(subtree_end, 2)]
    assert shown == [[0], [0, 1], [1, 2], [2, 3], [1, 4], [4, 5], [6], [6, 7]]


def test_a_window_that_hides_nothing_needs_no_plan_of_its_own() -> None:
    plan = plan_tree_attention(forest([(5, 3, 4)]), dtype=torch.float32)
    assert plan.windowed(1000) is plan
    deepest = int(depths(plan.subtree_end).max())
    assert plan.windowed(deepest + 1) is plan
    assert plan.windowed(deepest) is not plan
    with pytest.raises(ValueError, match="expected a window of at least 1 token, got 0"):
        plan.windowed(0)


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_gradients_are_the_same_however_many_threads_share_the_queries(threads: int) -> None:
    # Trunks with 600 and 597 queries below them: the halves of these leave one over.
    subtree_end = forest([(700, 2, 150), (300, 3, 100), (1, 40, 3)])
    q, k, v = random_qkv(len(subtree_end), torch.float64, groups=3)
    expected = reference_tree_attention(q, k, v, subtree_end, scale=0.25)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, (q, k, v), upstream)
    plan = plan_tree_attention(subtree_end, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = tree_attention(q, k, v, plan, scale=0.25)
        gradients = torch.autograd.grad(out, (q, k, v), upstream)
    finally:
        torch.set_num_threads(before)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_branches_change_nothing_bit_for_bit(dtype: torch.dtype, softcap: float) -> None:
    subtree_end = forest([(40, 4, 30), (20, 3, 9)])
    q, k, v = random_qkv(len(subtree_end), dtype)
    plan = plan_tree_attention(subtree_end, dtype=dtype)
    out = tree_attention(q, k, v, plan, scale=0.25, softcap=softcap)
    i = 77
    visible = (torch.arange(len(subtree_end)) <= i) & (subtree_end > i)
    with torch.no_grad():
        k[:, :, ~visible] *= -1e4
        v[:, :, ~visible] += 1e4
    changed = tree_attention(q, k, v, plan, scale=0.25, softcap=softcap)
    assert torch.equal(out[:, i], changed[:, i])
    (gradient,) = torch.autograd.grad(changed[:, i].float().sum(), v)
    assert torch.all(gradient[:, :, ~visible] == 0)
    assert torch.all(gradient[:, :, visible] != 0)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_gradcheck(softcap: float) -> None:
    subtree_end = forest([(3, 2, 4)])
    q, k, v = random_qkv(len(subtree_end), torch.float64, heads=2, groups=1)
    plan = plan_tree_attention(subtree_end, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k, v: tree_attention(q, k, v, plan, scale=0.3, softcap=softcap), (q, k, v)
    )


def test_shapes_that_do_not_fit_the_plan_are_named() -> None:
    plan = plan_tree_attention(forest([(3, 2, 4)]), dtype=torch.float32)
    q, k, v = random_qkv(5, torch.float32)
    with pytest.raises(ValueError, match=rf"expected q and k of \[1, heads, {plan.num_tokens}, size\]"):
        tree_attention(q, k, v, plan, scale=1.0)


def test_a_negative_softcap_is_refused() -> None:
    plan = plan_tree_attention(forest([(3, 2, 4)]), dtype=torch.float32)
    q, k, v = random_qkv(plan.num_tokens, torch.float32)
    with pytest.raises(ValueError, match="expected a softcap of at least 0, got -1"):
        tree_attention(q, k, v, plan, scale=1.0, softcap=-1.0)
