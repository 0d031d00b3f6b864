"""Which tile each kernel of tree attention is fastest with, on the GPU that is here.

    python -m benchmarks.kernel_tiles [--kernels attend keys queries] [--head-dims 64 128] [--tokens 16384]
        [--key-block 64] [--most-tiles 24] [--limit 120]

Every tile of the grid is compiled, in `--jobs` processes, and timed on an agent's tries with L/N = 4:
`attend` as the forward, `keys` and `queries` as the backward in which the other one keeps its tile. A tile
that needs more shared memory than there is says so. `--key-block` tries plans of larger blocks of keys.
Tiles are timed one after the other, the fastest of the repetitions counts; `--most-tiles` of each kernel, the
one that is set among them. Written to `kernel_tiles.json` in `--output` as it goes; `TILES` in
`trieline/kernels/gpu/tree_attention_op.py` is set from it by hand. Without a GPU, with TRITON_INTERPRET=1, it
runs on a CPU, where its times say nothing.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attention_loads import agent_parents, subtree_ends
from benchmarks.attention_sides import seconds_of
from benchmarks.tree_attention import RESULTS, machine
from trieline.kernels.gpu import tree_blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Shape = tuple[int, int, int, int]
"""block_m, block_n, num_warps, num_stages."""
GRID: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "attend": ((64, 128), (32, 64, 128), (4, 8), (2, 3, 4)),
    "keys": ((32, 64, 128), (64, 128), (4, 8), (1, 2, 3)),
    "queries": ((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)),
}


def shapes_of(kernel: str, head_dim: int, options: argparse.Namespace) -> list[Shape]:
    """Of a kernel, that which is set first."""
    from trieline.kernels.gpu.tree_attention_op import tile_of

    present = tuple(tile_of(kernel, getattr(torch, options.dtype), head_dim))
    shapes = [shape for shape in itertools.product(*GRID[kernel]) if options.key_block % shape[1] == 0]
    return sorted(shapes, key=lambda shape: shape != present)[: options.most_tiles]


def set_tile(kernel: str, shape: Shape, dtype: torch.dtype) -> None:
    from trieline.kernels.gpu import tree_attention_op as op

    op.TILES[kernel, dtype.itemsize] = (op.Tile(*shape),) * 3


class Load:
    """Queries, keys and values of a forest, and its plan."""

    def __init__(self, tokens: int, head_dim: int, options: argparse.Namespace) -> None:
        parents = agent_parents(tokens, 4, np.random.default_rng(0))
        ends = torch.from_numpy(subtree_ends(parents)).to(DEVICE)
        self.blocks = tree_blocks.plan_tree_blocks(ends)
        self.pairs = int((ends.long() - torch.arange(tokens, device=DEVICE)).sum())
        self.work = self.pairs * options.heads * head_dim
        dtype = getattr(torch, options.dtype)
        self.operands: tuple[Tensor, ...] = tuple(
            torch.randn(1, tokens, heads, head_dim, device=DEVICE, dtype=dtype)
            .transpose(1, 2)
            .requires_grad_()
            for heads in (options.heads, options.key_heads, options.key_heads)
        )
        self.upstream = torch.randn(1, tokens, options.heads, head_dim, device=DEVICE, dtype=dtype)

    def forward(self) -> Tensor:
        from trieline.kernels.gpu.tree_attention_op import tree_attention_on_gpu

        q, k, v = self.operands
        return tree_attention_on_gpu(q, k, v, self.blocks, scale=q.shape[-1] ** -0.5)

    def backward(self, out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, self.operands, self.upstream, retain_graph=True)


def milliseconds(load: Load, kernel: str, repetitions: int) -> float:
    out = load.forward()
    times = [
        seconds_of(lambda: load.forward() if kernel == "attend" else load.backward(out))
        for _ in range(repetitions + 1)
    ]
    return 1e3 * min(times[1:])  # the first one warms up


def use_key_block(size: int) -> None:
    """Before the kernels are imported, which read it then."""
    tree_blocks.KEY_BLOCK = size


def compile_one(kernel: str, head_dim: int, shape: Shape, options: argparse.Namespace) -> str | None:
    """Run it once on little, in another process: Triton keeps what it compiled. Why not, if it can't."""
    use_key_block(options.key_block)
    set_tile(kernel, shape, getattr(torch, options.dtype))
    try:
        load = Load(min(512, options.tokens), head_dim, options)
        seconds_of(lambda: load.forward() if kernel == "attend" else load.backward(load.forward()))
    except Exception as error:  # noqa: BLE001 - whatever a compiler says is the result
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return None


def compile_all(cases: list[tuple[str, int, Shape]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Those that were compiled in time."""
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        compiled = {pool.submit(compile_one, *case, options): case for case in cases}
        try:
            for done in as_completed(compiled, timeout=options.limit * 0.8):
                kernel, head_dim, shape = compiled[done]
                row = {"kernel": kernel, "head_dim": head_dim, "tile": list(shape), "left_out": done.result()}
                rows.append(row)
        except TimeoutError:
            print(f"{len(cases) - len(rows)} of {len(cases)} tiles were not compiled in time")
            for worker in pool._processes.values():
                worker.kill()
    return rows


def tell(rows: list[dict[str, Any]], options: argparse.Namespace, usual: dict[tuple[str, int], Any]) -> None:
    dtype = getattr(torch, options.dtype)
    for size, kernel in itertools.product(options.head_dims, options.kernels):
        chosen = [r for r in rows if (r["head_dim"], r["kernel"]) == (size, kernel) and "ms" in r]
        present = list(usual[kernel, dtype.itemsize][0 if size <= 64 else 1])
        for row in sorted(chosen, key=lambda r: r["ms"])[:6] + [r for r in chosen if r["tile"] == present]:
            mark = "  (as it is)" if row["tile"] == present else ""
            speed = f"{row['ms']:8.3f} ms {row['tflops']:7.1f} TFLOP/s"
            print(f"D {size} {kernel:8} {row['tile']!s:18} {speed}{mark}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--head-dims", nargs="+", type=int, default=[128, 64])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--key-block", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--most-tiles", type=int)
    parser.add_argument("--jobs", type=int, default=min(15, os.cpu_count() or 1))
    parser.add_argument(
        "--limit", type=float, default=120.0, help="seconds; what is not compiled then is left out"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu")
    options = parser.parse_args()
    end = time.monotonic() + options.limit
    use_key_block(options.key_block)
    dtype = getattr(torch, options.dtype)
    # The kernels in turn, so that none is without a tile if time runs out.
    cases = [
        (kernel, head_dim, shape)
        for head_dim in options.head_dims
        for shapes in itertools.zip_longest(*(shapes_of(k, head_dim, options) for k in options.kernels))
        for kernel, shape in zip(options.kernels, shapes, strict=True)
        if shape is not None
    ]
    rows = compile_all(cases, options)
    print(f"compiled {len(rows)} tiles in {time.monotonic() - end + options.limit:.0f} s", flush=True)

    from trieline.kernels.gpu import tree_attention_op as op

    options.output.mkdir(parents=True, exist_ok=True)
    name = "kernel_tiles.json" if options.key_block == 64 else f"kernel_tiles_{options.key_block}.json"
    result = {"machine": machine(), "options": vars(options), "rows": rows}
    usual = dict(op.TILES)
    loads = {size: Load(options.tokens, size, options) for size in options.head_dims}
    for row in rows:
        if row["left_out"] is not None or time.monotonic() > end:
            continue
        op.TILES.update(usual)
        set_tile(row["kernel"], tuple(row["tile"]), dtype)
        load = loads[row["head_dim"]]
        row["ms"] = milliseconds(load, row["kernel"], options.repetitions)
        row["tflops"] = (4 if row["kernel"] == "attend" else 10) * load.work / row["ms"] / 1e9
        (options.output / name).write_text(json.dumps(result, indent=1, default=str) + "\n")
    tell(rows, options, usual)


if __name__ == "__main__":
    main()
