"""Whether the Triton kernels run here, said once in the log where they don't; and a place to compile them."""

import atexit
import functools
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

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
    ensure_triton_folder()
    return True


@functools.cache
def ensure_triton_folder() -> None:
    """Give Triton a temporary folder where its own can't be written: it compiles through files."""
    from triton import knobs

    try:
        Path(knobs.cache.dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=knobs.cache.dir).close()
    except OSError as error:
        folder = tempfile.mkdtemp(prefix="trieline-triton-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _say_once(f"GPU kernels are compiled in {folder} and not kept: {error}")
        knobs.cache.dir = folder


@functools.cache
def _say_once(message: str) -> None:
    logger.info(message)
