"""The fused head against the plain one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trieline.kernels.row_masks import RowMasks
from trieline.kernels.token_logprob import reference_token_logprob, token_logprob
from trieline.wire.token_masks import runs_of

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
    settings: dict[str, Any] = {"temperature": temperature, "softcap": softcap}
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


# ---- rows that may take some tokens only


def row_masks(rows: int) -> tuple[RowMasks, list[list[int]]]:
    """Masks of every kind, also as the tokens that each row may take; a third of the rows has none."""
    rng = np.random.default_rng(rows)
    allowed = [
        [7],
        [0, VOCAB - 1],
        list(range(VOCAB - 1)),
        sorted(rng.choice(VOCAB, VOCAB // 2, replace=False).tolist()),
        sorted(rng.choice(VOCAB, 3, replace=False).tolist()),
    ]
    runs = [runs_of(np.isin(np.arange(VOCAB), tokens)) for tokens in allowed]
    index = np.where(rng.random(rows) < 1 / 3, -1, rng.integers(0, len(runs), rows))
    index[0] = 0
    return RowMasks(index=index, runs=runs), [list(range(VOCAB)) if m < 0 else allowed[m] for m in index]


def slow(logits: Tensor, target: int, allowed: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of one row from their definitions."""
    total = sum(torch.exp(logits[v]) for v in allowed)
    logprobs = {v: logits[v] - torch.log(torch.as_tensor(total)) for v in allowed}
    return logprobs[target], torch.stack([-torch.exp(own) * own for own in logprobs.values()]).sum()


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("head", [token_logprob, reference_token_logprob])
def test_a_masked_row_has_the_distribution_over_what_it_may_take(
    head: Any, budget: int, temperature: float, softcap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trieline.kernels.token_logprob.CHUNK_ELEMENTS", 4 * VOCAB)
    hidden, weight, at, _ = operands(torch.float64, 17)
    masks, allowed = row_masks(17)
    rng = np.random.default_rng(1)
    targets = torch.tensor([int(rng.choice(allowed[r])) for r in at.tolist()])
    settings = {"temperature": temperature, "softcap": softcap, "masks": masks}
    if head is token_logprob:
        settings["logits_budget"] = budget
    got = head(hidden, weight, at, targets, **settings)
    logits = hidden @ weight.T
    logits = (softcap * torch.tanh(logits / softcap) if softcap else logits) / temperature
    pairs = [slow(logits[r], t, allowed[r]) for r, t in zip(at.tolist(), targets.tolist(), strict=True)]
    entropies = [slow(logits[r], allowed[r][0], allowed[r])[1] for r in range(17)]
    want = torch.stack([logprob for logprob, _ in pairs]), torch.stack(entropies)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    upstream = [torch.randn_like(t) for t in want]
    gradients = torch.autograd.grad(got, (hidden, weight), upstream)
    for a, b in zip(gradients, torch.autograd.grad(want, (hidden, weight), upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_where_one_token_is_allowed_nothing_is_to_be_learned(dtype: torch.dtype) -> None:
    hidden, weight, _, _ = operands(dtype)
    masks = RowMasks(index=np.zeros(9, np.int64), runs=[np.array([7, 8], np.int32)])
    logprobs, entropies = token_logprob(
        hidden, weight, torch.arange(9), torch.full((9,), 7), temperature=0.7, masks=masks
    )
    assert logprobs.tolist() == entropies.tolist() == [0.0] * 9
    for gradient in torch.autograd.grad(logprobs.sum() + entropies.sum(), (hidden, weight)):
        assert (gradient == 0).all()


def test_masks_that_allow_everything_are_none() -> None:
    hidden, weight, at, targets = operands(torch.float64)
    whole = [np.array([0, VOCAB], np.int32)]
    plain = token_logprob(hidden, weight, at, targets)
    for masks in (
        RowMasks(index=np.zeros(9, np.int64), runs=whole),
        RowMasks(index=np.full(9, -1), runs=()),
    ):
        for a, b in zip(token_logprob(hidden, weight, at, targets, masks=masks), plain, strict=True):
            assert torch.equal(a, b)


def test_masks_of_other_rows_are_refused() -> None:
    hidden, weight, at, targets = operands(torch.float64)
    masks = RowMasks(index=np.full(8, -1), runs=())
    with pytest.raises(ValueError, match="expected masks of 9 rows, got them of 8"):
        token_logprob(hidden, weight, at, targets, masks=masks)


def test_far_logits_of_masked_rows_stay_finite() -> None:
    hidden, weight, _, _ = operands(torch.float32)
    masks = RowMasks(index=np.zeros(9, np.int64), runs=[np.array([3, 5], np.int32)])
    logprobs, entropies = token_logprob(
        1e4 * hidden, weight, torch.arange(9), torch.full((9,), 3), masks=masks
    )
    for gradient in torch.autograd.grad(logprobs.sum() + entropies.sum(), (hidden, weight)):
        assert gradient.isfinite().all()
    assert (logprobs <= 0).all()
    assert (entropies >= 0).all()
    assert entropies.max() <= math.log(2) + 1e-6
