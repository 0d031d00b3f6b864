"""Attention over slots of a pool: the formula, the gathered path, and on a GPU or interpreted the kernel."""

import pytest
import torch
from torch import Tensor

from trieline.kernels.gpu.slot_attention_op import slot_attention_on_gpu, splits_for
from trieline.kernels.slot_attention import gathered_attention, reference_slot_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def problem(
    lengths: list[int], heads: tuple[int, int], widths: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sequences whose tokens lie anywhere in the pool; rows and table hold more than is asked for."""
    torch.manual_seed(sum(lengths))
    queries, key_heads = heads
    pool, capacity, rows = sum(lengths) + 9, max(lengths) + 3, len(lengths) + 2
    query = torch.randn(len(lengths), queries, widths[0], dtype=dtype, device=DEVICE)
    keys = torch.randn(pool, key_heads, widths[0], dtype=dtype, device=DEVICE)
    values = torch.randn(pool, key_heads, widths[1], dtype=dtype, device=DEVICE)
    # Behind a row's tokens stands what is in no pool: it must not be read.
    slots = torch.full((rows, capacity), 1 << 30, dtype=torch.int32)
    order, begin = torch.randperm(pool), 0
    places = torch.randperm(rows)[: len(lengths)]
    for place, length in zip(places.tolist(), lengths, strict=True):
        slots[place, :length] = order[begin : begin + length].int()
        begin += length
    return (
        query,
        keys,
        values,
        slots.to(DEVICE),
        places.to(DEVICE),
        torch.tensor(lengths, device=DEVICE),
    )


@pytest.mark.parametrize(
    ("dtype", "heads", "splits"),
    [
        (torch.float32, (4, 4), 1),
        (torch.float32, (9, 3), 3),
        (torch.float32, (16, 1), None),
        (torch.bfloat16, (9, 3), 1),
        (torch.bfloat16, (16, 1), 3),
    ],
)
def test_the_kernel_is_the_formula(dtype: torch.dtype, heads: tuple[int, int], splits: int | None) -> None:
    operands = problem([1, 64, 65, 200], heads, (32, 32), dtype)
    expected = reference_slot_attention(*operands, scale=0.3)
    found = slot_attention_on_gpu(*operands, scale=0.3, num_splits=splits)
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    gathered = gathered_attention(*operands, scale=0.3, longest=200)
    torch.testing.assert_close(gathered, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_widths_that_are_no_power_of_two_and_differ() -> None:
    operands = problem([5, 130], (6, 2), (24, 40), torch.float32)
    expected = reference_slot_attention(*operands, scale=1.0)
    torch.testing.assert_close(slot_attention_on_gpu(*operands, scale=1.0), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("splits", [1, 3])
def test_a_window_is_the_formula(window: int, splits: int) -> None:
    operands = problem([1, 64, 65, 200], (4, 2), (32, 32), torch.float32)
    expected = reference_slot_attention(*operands, scale=0.3, window=window)
    found = slot_attention_on_gpu(*operands, scale=0.3, window=window, num_splits=splits)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    gathered = gathered_attention(*operands, scale=0.3, longest=200, window=window)
    torch.testing.assert_close(gathered, expected, atol=2e-5, rtol=2e-5)


def test_few_sequences_are_split_and_many_are_not() -> None:
    assert splits_for(8) == 16
    assert splits_for(64) == 4
    assert splits_for(1000) == 1


def test_a_table_of_another_type_is_refused() -> None:
    query, keys, values, slots, rows, lengths = problem([3], (2, 2), (32, 32), torch.float32)
    with pytest.raises(TypeError, match="int32"):
        slot_attention_on_gpu(query, keys, values, slots.long(), rows, lengths, scale=1.0)
    with pytest.raises(ValueError, match="contiguous"):
        slot_attention_on_gpu(query, keys.transpose(0, 1), values, slots, rows, lengths, scale=1.0)
