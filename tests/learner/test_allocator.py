"""In a process of its own: the setting stays for as long as a process lives."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from trieline.learner.allocator import keep_freed_memory

assert keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(64 * 2**20, np.uint8).fill(1)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
assert faults[-1] < faults[0] / 10, faults
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_a_block_that_was_freed_is_taken_again_without_new_pages() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
