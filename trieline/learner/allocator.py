"""How the C library treats memory that is freed.

glibc gives large blocks back to the system at once, and a training step frees and takes them by the hundred:
the system then clears every page anew, which is a sixth of a step of SmolLM2 on two cores.
"""

import ctypes
import platform

# From malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, for its next step. False: not glibc, and nothing has changed.

    The process then stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    no_mapped_blocks, never_trim = libc.mallopt(M_MMAP_MAX, 0), libc.mallopt(M_TRIM_THRESHOLD, -1)
    return bool(no_mapped_blocks and never_trim)
