"""Every compiled kernel runs where none can be kept: no place to write, no home, a full disk, a torn file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of each compiled kernel one call, and what numba keeps it in.
CALLS = """
import logging; logging.basicConfig(level=logging.INFO, format="%(message)s")
import numpy as np, torch
from trieline.kernels.cpu.compiled import readable
from trieline.kernels.decode_attention import decode_attention
from trieline.kernels.token_draw import draw_tokens
ones = torch.ones(1, 1, 1, 2, 4)
memory = readable(ones), readable(ones.clone())
seen = np.array([[0, 1, 0, 1]])
out = decode_attention(ones[0, :, 0, :1], ones[0, :, 0, :1], ones[0, :, 0, :1], memory, memory, 0, seen, 1.0)
assert out.tolist() == [[[1.0] * 4]], out
drawn = draw_tokens(torch.zeros(1, 1), np.ones(1), np.zeros(1), np.zeros(1, bool))
assert drawn.token_ids.tolist() == [0], drawn
"""
TRITON = """
import logging; logging.basicConfig(level=logging.INFO, format="%(message)s")
from triton import compile, knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trieline.kernels.gpu import availability, tree_blocks
availability.ensure_triton_folder()
pointers = dict.fromkeys(("SubtreeEnd", "Depth", "KeyExtent"), "*i32")
signature = pointers | {"num_keys": "i32", "key_blocks": "i32", "KEY_BLOCK": "constexpr"}
kernel = ASTSource(tree_blocks._key_extents, signature, {(5,): 64})
assert compile(kernel, GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


def run(code: str, writable: Path, *mounts: str, **environment: str) -> str:
    """What `code` logs on a machine on which only `writable` can be written."""
    command = [
        *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *("--bind", str(writable), str(writable), *mounts, "--chdir", str(writable)),
        *("--", sys.executable, "-c", code),
    ]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NUMBA", "TRITON", "XDG", "TRIELINE"))
    }
    environment = inherited | {"HOME": "/nonexistent", "PYTHONPATH": str(ROOT)} | environment
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@pytest.mark.timeout(900)
def test_a_read_only_machine_compiles_at_each_start(tmp_path: Path) -> None:
    said = run(CALLS, tmp_path, TMPDIR=str(tmp_path))
    assert "compiled kernels are kept nowhere (cannot cache function" in said


@pytest.mark.timeout(900)
def test_a_folder_that_is_named_keeps_them(tmp_path: Path) -> None:
    assert run(CALLS, tmp_path, NUMBA_CACHE_DIR=str(tmp_path)) == ""
    kept = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert {"decode_attention_kernel.attend_kernel", "token_draw_kernel.draw_kernel"} <= kept
    # As a machine that lost its power leaves it.
    for path in tmp_path.rglob("*.nbi"):
        path.write_bytes(b"")
    assert f"compiled kernels can't be kept in {tmp_path}" in run(
        CALLS, tmp_path, NUMBA_CACHE_DIR=str(tmp_path)
    )


@pytest.mark.timeout(900)
def test_a_full_disk_keeps_nothing(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    said = run(CALLS, tmp_path, "--size", "8192", "--tmpfs", str(full), NUMBA_CACHE_DIR=str(full))
    assert "No space left on device" in said


@pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="nothing is compiled")
def test_triton_compiles_in_a_temporary_folder(tmp_path: Path) -> None:
    said = run(TRITON, tmp_path, TMPDIR=str(tmp_path))
    assert f"GPU kernels are compiled in {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []
