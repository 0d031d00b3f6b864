"""What this machine is and has: the facts that a report of a problem, or a benchmark, needs."""

import os
import platform
from importlib import metadata
from typing import Any

from trieline.common.machine_limits import cpu_quota, machine_memory, usable_cores, usable_memory
from trieline.kernels.cpu.flags import cpu_field, cpu_flags

PACKAGES = (
    "trieline", "torch", "triton", "transformers", "tokenizers", "gymnasium", "numpy", "pyzmq", "msgspec",
    "docker", "math-verify",
)  # fmt: skip
# The instruction sets that decide which precision is fast on a CPU.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")

LEARNER_MODULES = (
    "accelerate", "gguf", "llguidance", "matplotlib", "numba", "safetensors", "tensorboard", "torch",
    "transformers",
)  # fmt: skip
"""Of the extra `learner`."""
INSTALL_LEARNER = "pip install 'trieline[learner]' (an actor machine needs none of it)"


def missing_extra(error: Exception) -> str | None:
    """What to install, if the error is that a module of the extra `learner` is not there."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in LEARNER_MODULES:
        return None
    return f"{error.name} is not installed: {INSTALL_LEARNER}"


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory and the versions of what matters. Imports no torch."""
    flags = cpu_flags()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gib": round(machine_memory() / 2**30, 1),
        "usable_memory_gib": round(usable_memory() / 2**30, 1),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
