"""Attention over a key-value cache against the formula."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trieline.kernels.cpu.compiled import readable
from trieline.kernels.decode_attention import decode_attention, reference_decode_attention

LAYERS, PREFIX_ROWS, OWN_ROWS, CAPACITY = 2, 3, 7, 40
# Query heads, key-value heads, widths of keys and values.
SHAPES = [(9, 3, 64, 64), (4, 4, 5, 5), (6, 1, 16, 7), (2, 2, 1, 3)]
# The sums' own rounding: float32 sums of 80 terms. In bfloat16 both sides round one float64 number, and
# agree but for the rare one that lies between two.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.0}

Pair = tuple[Tensor, Tensor]


class Case:
    """Five queries over two caches."""

    def __init__(self, dtype: torch.dtype, shape: tuple[int, int, int, int], seed: int = 0) -> None:
        queries, heads, width, out_width = shape
        generator = torch.Generator().manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

        self.query = random(5, queries, width)
        self.key, self.value = random(5, heads, width), random(5, heads, out_width)
        rows = (PREFIX_ROWS, OWN_ROWS)
        self.prefix, self.own = (
            (
                random(LAYERS, count, heads, CAPACITY, width),
                random(LAYERS, count, heads, CAPACITY, out_width),
            )
            for count in rows
        )
        rng = np.random.default_rng(seed)
        self.seen = np.empty((5, 4), np.int64)
        self.seen[:, 0] = rng.integers(0, PREFIX_ROWS, 5)
        self.seen[:, 1] = [0, 0, 1, CAPACITY, int(rng.integers(0, CAPACITY))]
        self.seen[:, 2] = rng.permutation(OWN_ROWS)[:5]
        self.seen[:, 3] = [1, CAPACITY, 1, CAPACITY, int(rng.integers(1, CAPACITY))]

    def result(self, prefix: Pair, own: Pair, scale: float = 0.3, window: int = 0) -> Tensor:
        before, after = ((readable(pair[0]), readable(pair[1])) for pair in (prefix, own))
        return decode_attention(self.query, self.key, self.value, before, after, 1, self.seen, scale, window)

    def expected(self, prefix: Pair, own: Pair, scale: float = 0.3, window: int = 0) -> Tensor:
        return reference_decode_attention(
            self.query, self.key, self.value, prefix, own, 1, self.seen, scale, window
        )


def copies(pair: Pair) -> Pair:
    return pair[0].clone(), pair[1].clone()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_equals_reference(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    case = Case(dtype, shape)
    own, expected_own = copies(case.own), copies(case.own)
    out, expected = case.result(case.prefix, own), case.expected(case.prefix, expected_own)
    torch.testing.assert_close(out, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    for written, wanted in zip(own, expected_own, strict=True):
        assert torch.equal(written, wanted)


@pytest.mark.parametrize("window", [1, 7, 41, 1000])
def test_a_window_equals_reference(window: int) -> None:
    case = Case(torch.float64, SHAPES[0])
    out = case.result(case.prefix, copies(case.own), window=window)
    expected = case.expected(case.prefix, copies(case.own), window=window)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_a_cache_without_rows_is_a_prefix_of_nothing() -> None:
    case = Case(torch.bfloat16, SHAPES[0])
    case.seen[:, :2] = 0
    nothing = case.prefix[0][:, :0], case.prefix[1][:, :0]
    assert torch.equal(case.result(nothing, copies(case.own)), case.expected(case.prefix, case.own))


def test_strided_operands_are_read_right() -> None:
    case = Case(torch.float64, SHAPES[0])
    expected = case.expected(case.prefix, copies(case.own))
    for name in ("query", "key", "value"):
        tensor = getattr(case, name)
        setattr(case, name, torch.cat((tensor, tensor), 1)[:, : tensor.shape[1]])
    torch.testing.assert_close(case.result(case.prefix, case.own), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 40.0, 1e4])
def test_sharp_and_flat_distributions(scale: float) -> None:
    case = Case(torch.float64, SHAPES[0])
    expected = case.expected(case.prefix, copies(case.own), scale)
    torch.testing.assert_close(case.result(case.prefix, case.own, scale), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("operand", ["query", "key", "value"])
def test_what_is_not_finite_is_not_hidden(operand: str, poison: float) -> None:
    case = Case(torch.bfloat16, SHAPES[0])
    clean = case.result(case.prefix, copies(case.own))
    getattr(case, operand)[2, 0, 0] = poison
    out = case.result(case.prefix, case.own)
    assert not torch.isfinite(out[2, :3]).all()
    assert torch.equal(out[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


def test_the_number_of_threads_changes_nothing() -> None:
    case = Case(torch.float32, SHAPES[0])
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(case.result(case.prefix, copies(case.own)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_other_precisions_are_refused_by_name() -> None:
    case = Case(torch.bfloat16, SHAPES[0])
    case.key = case.key.float()
    with pytest.raises(TypeError, match="uint16, got float32"):
        case.result(case.prefix, case.own)
    with pytest.raises(TypeError, match=r"got torch\.float16"):
        readable(torch.zeros(2, dtype=torch.float16))
