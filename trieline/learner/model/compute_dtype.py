"""Which precision to compute in: bfloat16 only where the device has instructions that multiply it."""

import logging
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from trieline.kernels.cpu.flags import BFLOAT16_FLAGS, has_bfloat16

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
BFLOAT16_CAPABILITY = (8, 0)
"""Ampere: older GPUs imitate bfloat16 in float32."""
NAMED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Rows, outputs and inputs of the measured product: a layer of a small model under a decode batch.
PROBE_SHAPE = (64, 1536, 576)
PROBE_REPEATS = 12


def choose_dtype(name: str, device: torch.device = CPU) -> torch.dtype:
    """The precision that `name` (`auto`, `float32` or `bfloat16`) stands for where `device` computes."""
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name not in NAMED_DTYPES:
        msg = f"expected a dtype out of auto, {', '.join(NAMED_DTYPES)}; got {name!r}"
        raise ValueError(msg)
    return NAMED_DTYPES[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    # Read, not measured: programs that start on a busy machine at the same time would come to different
    # results.
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
        what = f"{torch.cuda.get_device_name(device)} multiplies bfloat16"
        log.info("%s: %s", what, "yes" if found else "no")
        return found
    found = has_bfloat16()
    log.info("this CPU has %s %s", "one of" if found else "none of", ", ".join(sorted(BFLOAT16_FLAGS)))
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The name under which a config asks for `dtype`."""
    return next(name for name, named in NAMED_DTYPES.items() if named == dtype)


@torch.no_grad()
def matmul_seconds(
    dtype: torch.dtype, shape: tuple[int, int, int] = PROBE_SHAPE, device: torch.device = CPU
) -> float:
    """Seconds of one product, the best of several: other programs can only make it slower."""
    rows, outputs, inputs = shape
    x = torch.ones(rows, inputs, dtype=dtype, device=device)
    weight = torch.ones(outputs, inputs, dtype=dtype, device=device)

    def product() -> None:
        functional.linear(x, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return min(_seconds(product) for _ in range(PROBE_REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
