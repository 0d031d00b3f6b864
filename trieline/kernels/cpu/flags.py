"""The instruction sets of this CPU, as the kernel names them. Imports no torch."""

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""On x86, and on ARM."""


def cpu_field(name: str) -> str | None:
    """The value of a field of the first core, or None."""
    if not CPUINFO.exists():
        return None
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


@functools.cache
def has_bfloat16() -> bool:
    """Whether there are instructions that multiply bfloat16."""
    return bool(cpu_flags() & BFLOAT16_FLAGS)


def cpu_flags() -> frozenset[str]:
    """All flags: under `flags` on x86, under `Features` on ARM."""
    return frozenset((cpu_field("flags") or cpu_field("Features") or "").split())
