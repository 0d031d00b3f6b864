"""The GPU's log-probability head against the plain one in float64."""

import pytest
import torch
from torch import Tensor

from tests.kernels.gpu.forests import DEVICE, random_tensor, relative_error
from trieline.kernels.gpu.token_logprob_op import check_operands, chunk_columns, token_logprob_op
from trieline.kernels.token_logprob import reference_token_logprob

BIG = 1 << 30


def operands(
    rows: int, vocab: int, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = random_tensor(rows, 12, dtype=dtype, seed=1).requires_grad_()
    weight = random_tensor(vocab, 12, dtype=dtype, seed=2).requires_grad_()
    # Rows with several targets, with the same one twice, and with none; in no order.
    at = torch.randint(0, rows, (2 * rows,), generator=generator).to(DEVICE)
    targets = torch.randint(0, vocab, (2 * rows,), generator=generator).to(DEVICE)
    at[1], targets[1] = at[0], targets[0]
    return hidden, weight, at, targets


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Values are float32 from the product on; gradients leave in the precision of their operands.
    [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)],
    ids=str,
)
@pytest.mark.parametrize("budget", [0, BIG])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 61), (15, 300), (63, 129), (3, 5000)])
def test_equals_reference(dtype: torch.dtype, tolerance: float, budget: int, rows: int, vocab: int) -> None:
    hidden, weight, at, targets = operands(rows, vocab, dtype=dtype)
    logprobs, entropies, _ = token_logprob_op(hidden, weight, at, targets, 0.7, budget)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    want = reference_token_logprob(exact[0], exact[1], at, targets, temperature=0.7)
    for got, expected in zip((logprobs, entropies), want, strict=True):
        assert got.dtype == torch.float32
        assert relative_error(got, expected) < 1e-5
    upstream = [random_tensor(*t.shape, dtype=torch.float32, seed=3) for t in want]
    gradients = torch.autograd.grad((logprobs, entropies), (hidden, weight), upstream)
    for got, expected in zip(
        gradients, torch.autograd.grad(want, exact, [u.double() for u in upstream]), strict=True
    ):
        assert got.dtype == dtype
        assert relative_error(got, expected) < tolerance


def test_extreme_logits_stay_finite() -> None:
    hidden, weight, at, targets = operands(9, 200)
    with torch.no_grad():
        hidden *= 1000
    logprobs, entropies, _ = token_logprob_op(hidden, weight, at, targets, 0.5, 0)
    gradients = torch.autograd.grad(logprobs.sum() + entropies.sum(), (hidden, weight))
    assert all(torch.isfinite(t).all() for t in (logprobs, entropies, *gradients))
    assert (entropies > -1e-4).all()


def test_other_rows_change_nothing_bit_for_bit() -> None:
    hidden, weight, at, targets = operands(15, 300)
    logprobs, entropies, _ = token_logprob_op(hidden, weight, at, targets, 1.0, 0)
    with torch.no_grad():
        hidden[torch.arange(15, device=DEVICE) != 4] *= -50
    changed = token_logprob_op(hidden, weight, at, targets, 1.0, 0)
    assert torch.equal(logprobs[at == 4], changed[0][at == 4])
    assert torch.equal(entropies[4], changed[1][4])


def test_a_target_outside_the_vocabulary_is_no_number() -> None:
    hidden, weight, at, targets = operands(9, 61)
    targets[3] = 61
    logprobs, _, _ = token_logprob_op(hidden, weight, at, targets, 1.0, BIG)
    assert torch.isnan(logprobs[3])
    assert torch.isfinite(logprobs[targets < 61]).all()


def test_nothing_to_do() -> None:
    hidden, weight, at, targets = operands(4, 61)
    logprobs, entropies, _ = token_logprob_op(hidden, weight, at[:0], targets[:0], 1.0, BIG)
    assert logprobs.shape == (0,)
    (gradient,) = torch.autograd.grad(entropies[3], hidden)
    assert (gradient[3] != 0).any()
    assert (gradient[:3] == 0).all()
    logprobs, entropies, _ = token_logprob_op(hidden[:0], weight, at[:0], targets[:0], 1.0, BIG)
    assert entropies.shape == (0,)
    (gradient,) = torch.autograd.grad(entropies.sum(), weight)
    assert (gradient == 0).all()


def test_budget_bounds_the_chunk() -> None:
    assert chunk_columns(100, 5000, 2, BIG) == 5000
    assert chunk_columns(100, 5000, 2, 100 * 6 * 1000) == 896
    assert chunk_columns(100, 5000, 2, 0) == 128


def test_opcheck() -> None:
    torch.library.opcheck(token_logprob_op, (*operands(9, 61), 0.7, 0))


def test_what_the_kernels_cannot_do_is_named() -> None:
    hidden, weight, at, targets = operands(9, 61)
    with pytest.raises(ValueError, match=r"expected hidden \[R, D\] and weight \[V, D\], got \[9, 12\] and"):
        check_operands(hidden, weight[:, 1:], at, targets, 1.0)
    with pytest.raises(ValueError, match=r"of one dtype .*, got torch.float32 and torch.float16"):
        check_operands(hidden, weight.half(), at, targets, 1.0)
    with pytest.raises(ValueError, match=r"of one length, got \[18\] and \[17\]"):
        check_operands(hidden, weight, at, targets[1:], 1.0)
    with pytest.raises(ValueError, match="on one device"):
        check_operands(hidden.to("meta"), weight, at, targets, 1.0)
    with pytest.raises(ValueError, match="temperature above 0, got 0"):
        check_operands(hidden, weight, at, targets, 0)
