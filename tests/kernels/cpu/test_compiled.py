"""What the compiled kernels do to the process that they run in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FIRST_CALL = """
import numpy as np, torch
from trieline.kernels.token_draw import draw_tokens
torch.set_num_threads({threads})
draw_tokens(torch.zeros(1, 1), np.ones(1), np.zeros(1), np.zeros(1, bool))
print(torch.get_num_threads())
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_call_leaves_torch_its_number_of_threads(threads: int) -> None:
    # In a process of its own: numba starts its threads once.
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_CALL.format(threads=threads)],
        env=os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [str(threads)]
