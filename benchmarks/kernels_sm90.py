"""Registers, shared memory and spills of every kernel, compiled ahead of time for sm_90 without a device.

    python -m benchmarks.kernels_sm90 [--kernels attend keys queries] [--tile M N WARPS STAGES]

Needs torch and triton, whose wheel brings ptxas. The compiled kernels are those that a launch would take:
sizes and strides divisible by 16 say so, the numbers of tokens don't. `--tile` tries another tile. Written
to `benchmarks/results/kernels_sm90.json` unless a tile is tried.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from trieline.kernels.gpu import (
    slot_attention_op,
    token_logprob_op,
    tree_attention_backward,
    tree_attention_forward,
    tree_blocks,
)
from trieline.kernels.gpu.tree_attention_op import DTYPES, HEAD_DIMS, Tile, tile_of

RESULTS = Path(__file__).parent / "results" / "kernels_sm90.json"
TARGET = GPUTarget("cuda", 90, 32)
PTXAS_OPTIONS = ("-lineinfo", "--regAllocOptLevel=2", "--gpu-name=sm_90a")
"""What Triton 3.9 itself passes."""
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
DOTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
TILED = {
    "attend": tree_attention_forward.attend_kernel,
    "keys": tree_attention_backward.keys_kernel,
    "queries": tree_attention_backward.queries_kernel,
}
BLOCKS = {"QUERY_BLOCK": tree_blocks.QUERY_BLOCK, "KEY_BLOCK": tree_blocks.KEY_BLOCK}
SLOTS = {"HEADS": 8, "GROUP": 4, "GROUP_BLOCK": 16, "VALUE_WIDTH": 128, "VALUE_BLOCK": 128}
OTHERS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "tree_attention/delta": (
        tree_attention_backward.delta_kernel, 4, {"HEAD_DIM": 128, "BLOCK_D": 128, "BLOCK_M": 64},
    ),
    "tree_attention/add_slices": (
        tree_attention_backward.add_slices_kernel, 4, {"HEAD_DIM": 128, "BLOCK_D": 128, "BLOCK_N": 64},
    ),
    "tree_blocks/key_extents": (tree_blocks._key_extents, 1, {"KEY_BLOCK": tree_blocks.KEY_BLOCK}),
    "tree_blocks/query_runs": (
        tree_blocks._query_runs,
        4,
        BLOCKS | {"WINDOW": False, "MAX_RUNS": tree_blocks.MAX_RUNS, "SCAN": tree_blocks._SCAN},
    ),
    "tree_blocks/schedule_slices": (
        tree_blocks._schedule_slices,
        4,
        BLOCKS
        | {
            "SLICES": tree_blocks.SLICES,
            "LEAST_SLICE": tree_blocks.LEAST_SLICE,
            "SCAN": 4 * tree_blocks._SCAN,
        },
    ),
    "tree_blocks/cut_slices": (tree_blocks._cut_slices, 1, BLOCKS | {"MAX_SLICES": 2 * tree_blocks.SLICES}),
    "token_logprob/accumulate": (token_logprob_op.accumulate_kernel, 8, {"BLOCK": 2048}),
    "token_logprob/gradient": (token_logprob_op.gradient_kernel, 8, {"BLOCK": 2048}),
    "slot_attention/split": (slot_attention_op.split_kernel, 4, SLOTS | {
        "KEY_WIDTH": 128, "KEY_BLOCK": 128, "BLOCK_N": slot_attention_op.BLOCK, "DOT": tl.bfloat16,
    }),
    "slot_attention/merge": (slot_attention_op.merge_kernel, 4, SLOTS),
}  # fmt: skip
"""Kernel, warps and constants of what has one tile only; compiled for bfloat16."""
FLOAT32 = {
    "Lse", "Delta", "Partial", "Logits", "Largest", "Sum", "WeightedSum", "Chosen", "Entropies",
    "GradLogprobs", "GradEntropies", "Total",
}  # fmt: skip
INT32 = {
    "SubtreeEnd", "Depth", "KeyExtent", "Runs", "NumRuns", "Items", "Slices", "Schedule", "Starts", "Slots",
}  # fmt: skip
INT64 = {"Targets", "Rows", "Lengths"}
FLOAT_SCALARS = {"scale", "softcap", "inverse_temperature"}


def signature_of(kernel: Any, dtype: torch.dtype, constants: dict[str, Any]) -> dict[str, str]:
    """The types of a kernel's arguments, told from their names."""
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in FLOAT32:
            types[name] = "*fp32"
        elif name in INT32:
            types[name] = "*i32"
        elif name in INT64:
            types[name] = "*i64"
        elif name[0].isupper():
            types[name] = "*" + NAMES[dtype]
        else:
            types[name] = "fp32" if name in FLOAT_SCALARS else "i32"
    return types


def compile_kernel(
    kernel: Any, dtype: torch.dtype, constants: dict[str, Any], *, num_warps: int, num_stages: int
) -> dict[str, Any]:
    signature = signature_of(kernel, dtype, constants)
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name.startswith("stride_")
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()},
        attrs=attributes,
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=TARGET, options=options)
    ptx = compiled.asm["ptx"]
    return {
        **resources(ptx),
        "shared_bytes": compiled.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "cp_async": len(re.findall(r"cp\.async\.c[ag]", ptx)),
    }


def resources(ptx: str) -> dict[str, int]:
    """What ptxas says of the code."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        ptxas = get_ptxas(TARGET.arch).path
        command = [ptxas, "-v", *PTXAS_OPTIONS, str(file), "-o", f"{file}.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    numbers = {
        "registers": r"Used (\d+) registers",
        "stack_bytes": r"(\d+) bytes stack frame",
        "spill_store_bytes": r"(\d+) bytes spill stores",
        "spill_load_bytes": r"(\d+) bytes spill loads",
    }
    return {name: int(re.findall(pattern, said)[-1]) for name, pattern in numbers.items()}


def tiled_row(name: str, dtype: torch.dtype, size: int, softcap: bool, tile: Tile) -> dict[str, Any]:
    constants = {
        "GROUP": 4,
        "WINDOW": False,
        "SOFTCAP": softcap,
        "HEAD_DIM": size,
        "BLOCK_D": triton.next_power_of_2(size),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "DOT": DOTS[dtype],
    }
    row = {
        "kernel": f"tree_attention/{name}",
        "dtype": NAMES[dtype],
        "head_dim": size,
        "softcap": softcap,
        "tile": [tile.block_m, tile.block_n],
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    made = compile_kernel(TILED[name], dtype, constants, num_warps=tile.num_warps, num_stages=tile.num_stages)
    row.update(made)
    print(
        f"{row['kernel']:24} {row['dtype']:5} D {size:3} {'softcap' if softcap else '       '} "
        f"{tile.block_m:3}x{tile.block_n:3} {tile.num_warps} warps {tile.num_stages} stages: "
        f"{made['registers']:3} registers, {made['shared_bytes']:6} B shared, "
        f"{made['spill_store_bytes']}/{made['spill_load_bytes']} B spilled, "
        f"{made['wgmma']} wgmma, {made['cp_async']} cp.async",
        flush=True,
    )
    return row


def other_row(name: str) -> dict[str, Any]:
    kernel, num_warps, constants = OTHERS[name]
    row: dict[str, Any] = {"kernel": name, "dtype": "bf16", "num_warps": num_warps, "num_stages": 3}
    row |= compile_kernel(kernel, torch.bfloat16, constants, num_warps=num_warps, num_stages=3)
    print(
        f"{name:28} {num_warps} warps: {row['registers']:3} registers, {row['shared_bytes']:6} B shared, "
        f"{row['spill_store_bytes']}/{row['spill_load_bytes']} B spilled",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Resources of the kernels on sm_90")
    parser.add_argument("--kernels", nargs="+", default=list(TILED))
    parser.add_argument("--dtypes", nargs="+", default=list(NAMES.values()), choices=list(NAMES.values()))
    parser.add_argument("--head-dims", nargs="+", type=int, default=list(HEAD_DIMS))
    parser.add_argument("--softcap", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--tile", nargs=4, type=int)
    options = parser.parse_args()
    rows = []
    for name in options.kernels:
        for dtype in DTYPES:
            if NAMES[dtype] not in options.dtypes:
                continue
            for size in options.head_dims:
                tile = tile_of(name, dtype, size)
                if options.tile:
                    tile = Tile(*options.tile)
                rows += [tiled_row(name, dtype, size, bool(cap), tile) for cap in options.softcap]
    if not options.tile:
        rows += [other_row(name) for name in OTHERS]
    spilled = [row for row in rows if row["spill_store_bytes"] or row["spill_load_bytes"]]
    print(f"{len(rows)} kernels, {len(spilled)} spill")
    if not options.tile:
        RESULTS.write_text(json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
