"""The fused head against the plain one."""

import pytest
import torch
from torch import Tensor

from trieline.kernels.token_logprob import reference_token_logprob, token_logprob

VOCAB = 61
BUDGETS = {"all kept": 1 << 30, "some computed again": 3 * VOCAB * 8, "one row at a time": 0}


def operands(dtype: torch.dtype, rows: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 12, dtype=torch.float64, generator=generator)
    weight = torch.randn(VOCAB, 12, dtype=torch.float64, generator=generator)
    # Rows with several targets, equal targets, and none; in no order.
    at = torch.randint(0, rows, (2 * rows,), generator=generator)
    targets = torch.randint(0, VOCAB, (2 * rows,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), at, targets


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("rows", [1, 9, 40])
def test_equals_reference(
    budget: int, temperature: float, softcap: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trieline.kernels.token_logprob.CHUNK_ELEMENTS", 4 * VOCAB)
    hidden, weight, at, targets = operands(torch.float64, rows)
    settings = {"temperature": temperature, "softcap": softcap}
    got = token_logprob(hidden, weight, at, targets, **settings, logits_budget=budget)
    want = reference_token_logprob(hidden, weight, at, targets, **settings)
    upstream = [torch.randn_like(t) for t in want]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(got, (hidden, weight), upstream)
    for a, b in zip(gradients, torch.autograd.grad(want, (hidden, weight), upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_gradcheck(budget: int, softcap: float) -> None:
    hidden, weight, at, targets = operands(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprob(h, w, at, targets, temperature=0.7, softcap=softcap, logits_budget=budget),
        (hidden, weight),
    )


def test_backward_twice_gives_the_same() -> None:
    hidden, weight, at, targets = operands(torch.float64)
    logprobs, entropies = token_logprob(hidden, weight, at, targets)
    loss = logprobs.sum() + entropies.sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # float32: sums over the vocabulary. bfloat16: gradients leave in 8 bits, values in float32.
    [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)],
    ids=str,
)
def test_low_precision_is_that_of_the_product(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, at, targets = operands(dtype)
    got = token_logprob(hidden, weight, at, targets, temperature=0.8)
    # The logits are rounded by the product; from there on both are float32.
    want = reference_token_logprob(hidden, weight, at, targets, temperature=0.8)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    upstream = [torch.randn_like(t) for t in want]
    gradients = torch.autograd.grad(got, (hidden, weight), upstream)
    for a, b in zip(gradients, torch.autograd.grad(want, (hidden, weight), upstream), strict=True):
        error = (a.double() - b.double()).norm() / b.double().norm()
        assert error < tolerance, error


def test_extreme_logits_stay_finite() -> None:
    hidden, weight, at, targets = operands(torch.float32)
    with torch.no_grad():
        hidden *= 300
    logprobs, entropies = token_logprob(hidden, weight, at, targets)
    gradients = torch.autograd.grad(logprobs.sum() + entropies.sum(), (hidden, weight))
    assert all(torch.isfinite(t).all() for t in (logprobs, entropies, *gradients))
    assert (entropies > -1e-4).all()


def test_rows_without_targets_have_only_their_entropy() -> None:
    hidden, weight, _, _ = operands(torch.float64)
    none = torch.empty(0, dtype=torch.int64)
    logprobs, entropies = token_logprob(hidden, weight, none, none)
    assert logprobs.shape == (0,)
    (gradient,) = torch.autograd.grad(entropies[3], hidden)
    assert (gradient[3] != 0).any()
    assert (gradient[:3] == 0).all()
