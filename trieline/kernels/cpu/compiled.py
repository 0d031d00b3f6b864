"""What the CPU kernels compiled by numba share: how they read bfloat16, powers of two, and torch's threads.

A kernel is compiled at its first call for a precision, in some seconds, and kept on disk for later processes
where that can be: beside this file, in the user's cache, or in NUMBA_CACHE_DIR.
"""

import functools
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numba import extending, types
from numba.core.caching import FunctionCache
from torch import Tensor

logger = logging.getLogger(__name__)

# Work that is worth waking another thread, in nanoseconds.
GRAIN_NS = 100_000
# The first of these goes best with torch's threads.
THREADS = ["omp", "tbb", "workqueue"]
# Sums may be made in any order, as the vector instructions want it.
SUMS = {"reassoc", "contract", "nsz"}
BITS_PER_NAT = 1 / math.log(2)
# 2^x = sum of (x ln 2)^k / k!, which for |x| <= 1/2 is exact to float64 with these.
POWER_SERIES = tuple(math.log(2) ** k / math.factorial(k) for k in range(14))
# Its power, and those below, are taken for 0.
SMALLEST_EXPONENT = -1023.0

READABLE = {torch.bfloat16, torch.float32, torch.float64}

Memory = np.ndarray[Any, Any]


def compiled(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """`numba.njit` with `options`, which keeps what it compiles if there is a place, and goes on if not."""

    def compile_(function):
        kernel = numba.njit(**options)(function)
        try:
            kernel._cache = _Cache(function)
        except RuntimeError as error:
            # What numba raises where it can write to none of its folders.
            _say_once(f"compiled kernels are kept nowhere ({error}): some seconds more at each start")
        return kernel

    return compile_


class _Cache(FunctionCache):  # type: ignore[misc]
    """What can't be read is compiled again, and what can't be written is not kept; numba's own raises."""

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        # Around the body of reading, which then finds nothing, and that of writing.
        try:
            yield
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _say_once(f"compiled kernels can't be kept in {self.cache_path}: {type(error).__name__}: {error}")


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def share_threads(work_ns: float) -> int:
    """Let the next kernel run on as many of torch's number of threads as its work is worth; how many."""
    threads = torch.get_num_threads()
    numba.config.THREADING_LAYER_PRIORITY = THREADS
    count: int = max(1, min(threads, numba.config.NUMBA_NUM_THREADS, int(work_ns / GRAIN_NS)))
    numba.set_num_threads(count)
    if torch.get_num_threads() != threads:
        # numba's pool starts at the first call, and asks OpenMP, which is torch's too, for all cores.
        torch.set_num_threads(threads)
    return count


def readable(tensor: Tensor) -> Memory:
    """The memory of a bfloat16 (its bits, see `number`), float32 or float64 tensor."""
    if tensor.dtype not in READABLE:
        msg = f"expected a tensor in bfloat16, float32 or float64, got {tensor.dtype}"
        raise TypeError(msg)
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def number(stored):
    """What an element of `readable` stands for. Inside kernels alone."""
    raise NotImplementedError


@extending.overload(number)
def _number(stored):
    if isinstance(stored, types.Integer):
        # bfloat16 is the upper half of float32.
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@numba.njit(inline="always")
def power_of_2(exponent):
    """For exponents up to 0. Unlike the library's, a loop of these becomes vector instructions."""
    exponent = max(exponent, SMALLEST_EXPONENT)
    whole = np.floor(exponent + 0.5)
    rest = exponent - whole
    power = 0.0
    for k in range(len(POWER_SERIES)):
        power = power * rest + POWER_SERIES[len(POWER_SERIES) - 1 - k]
    return power * np.int64((np.int64(whole) + 1023) << 52).view(np.float64)
