"""Whether the Triton kernels run here, said once in the log where they don't."""

import functools
import importlib.util
import logging

import torch

logger = logging.getLogger(__name__)


def takes_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensors of `dtype` on `device` go to the Triton kernels; float64 never does."""
    if device.type == "cpu":
        _say_once("no GPU: tree attention and token log-probabilities run on the CPU")
        return False
    if device.type != "cuda" or dtype == torch.float64:
        _say_once(f"no Triton kernels for {dtype} on {device.type}: the plain references run")
        return False
    if importlib.util.find_spec("triton") is None:
        _say_once("Triton is not installed: the plain references run on the GPU, slowly; pip install triton")
        return False
    return True


@functools.cache
def _say_once(message: str) -> None:
    logger.info(message)
