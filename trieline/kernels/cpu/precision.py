"""The precisions in which the CPU attends and sums, for operands of half precision."""

import torch

HALF_DTYPES = (torch.bfloat16, torch.float16)


def reproducible_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision whose results the CPU can repeat in `dtype`: float64 for half precision.

    Rounded to half precision, the result then no longer depends on the order of the sums: a token attends to
    the same bits in a whole trie and alone before a key-value cache. In float32 one element in some tens of
    thousands rounds the other way, and ten layers later everything is different.
    """
    return torch.float64 if dtype in HALF_DTYPES else dtype


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which the gradients of a shared key add up, and log-sum-exps are kept."""
    return torch.float32 if dtype in HALF_DTYPES else dtype
