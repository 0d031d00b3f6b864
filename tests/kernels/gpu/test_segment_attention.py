"""Segments below ancestors that were computed before, through the public functions, as on a GPU."""

import pytest
import torch

from tests.kernels.gpu.forests import DEVICE, TOLERANCE, forest, random_tensor, relative_error
from trieline.kernels import tree_plan
from trieline.kernels.segment_attention import reference_segment_attention, segment_attention
from trieline.kernels.tree_attention import tree_attention


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the interpreter the tensors are on the CPU, which has a path of its own."""
    monkeypatch.setattr(tree_plan, "takes_triton", lambda device, dtype: True)


@pytest.mark.parametrize("num_above", [1, 64, 150])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_reference(num_above: int, softcap: float, dtype: torch.dtype) -> None:
    ends = forest(130, seed=num_above)
    plan = tree_plan.plan_tree_attention(ends, dtype=dtype, num_above=num_above)
    sizes = [(130, 4), (130, 2), (130, 2), (num_above, 2), (num_above, 2)]
    q, k, v, k_above, v_above = inputs = [
        random_tensor(1, heads, tokens, 32, dtype=dtype, seed=i).requires_grad_()
        for i, (tokens, heads) in enumerate(sizes)
    ]
    out = segment_attention(q, k, v, k_above, v_above, plan, scale=0.3, softcap=softcap)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    want = reference_segment_attention(
        exact[0], exact[1], exact[2], exact[3], exact[4], ends, scale=0.3, softcap=softcap
    )
    upstream = random_tensor(*out.shape, dtype=dtype, seed=9)
    gradients = torch.autograd.grad(out, inputs, upstream)
    wanted = torch.autograd.grad(want, exact, upstream.double())
    for got, expected in zip((out, *gradients), (want, *wanted), strict=True):
        assert relative_error(got, expected) < TOLERANCE[dtype]


def test_gradients_of_ancestors_below_float32_are_kept_in_float32() -> None:
    plan = tree_plan.plan_tree_attention(forest(40, seed=0), dtype=torch.bfloat16, num_above=20)
    q, k, v = (random_tensor(1, 2, 40, 32, dtype=torch.bfloat16, seed=i).requires_grad_() for i in range(3))
    above = [random_tensor(1, 2, 20, 32, dtype=torch.bfloat16, seed=i) for i in (3, 4)]
    totals = [torch.zeros(leaf.shape, device=DEVICE) for leaf in above]
    for leaf, total in zip(above, totals, strict=True):
        leaf.requires_grad_()
        leaf.grad_dtype = torch.float32
        leaf.grad = total
    for _ in range(2):
        torch.autograd.backward(segment_attention(q, k, v, above[0], above[1], plan, scale=0.3).sum())
    for leaf, total in zip(above, totals, strict=True):
        assert leaf.grad is total, "added in place"
        assert total.norm() > 0


def test_a_plan_for_other_ancestors_is_refused() -> None:
    plan = tree_plan.plan_tree_attention(forest(40, seed=0), dtype=torch.float32, num_above=20)
    q, k, v, keys, values = (
        random_tensor(1, 2, tokens, 32, dtype=torch.float32, seed=0) for tokens in (40, 40, 40, 19, 19)
    )
    with pytest.raises(ValueError, match="expected 40 queries and 60 keys as planned, got 40 and 59"):
        segment_attention(q, k, v, keys, values, plan, scale=0.3)
    with pytest.raises(ValueError, match="expected 40 queries and 60 keys as planned, got 40 and 40"):
        tree_attention(q, k, v, plan, scale=0.3)
