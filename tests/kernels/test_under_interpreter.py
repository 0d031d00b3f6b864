"""The tests of the Triton kernels without a GPU: under the interpreter, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="they run on the GPU instead")
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param("not long", marks=pytest.mark.timeout(900)),
        # Minutes; of the kernels `test_segment_attention` runs the same.
        pytest.param("long", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_under_interpreter(chosen: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # The device first: torch counts its devices in the first backward.
    folders = [str(ROOT / "tests" / "on_pretend_gpu"), str(HERE / "gpu")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, *folders],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert " passed" in ran.stdout


def test_kernels_import_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import trieline.kernels.tree_attention, trieline.kernels.token_logprob, trieline.kernels.preorder"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
