"""Tree attention against FlexAttention with the same mask, separate sequences, segments, and a dense mask.

    python benchmarks/tree_attention.py [--tokens 2048 8192 ...] [--ratios 1 2 4 8] [--rounds 10]

Runs on a GPU if there is one, else on the CPU with small sizes; needs torch, and Triton for a GPU, and
draws a plot where matplotlib is. N is the number of tokens of a pack of tries, L that of its sequences.
Loads: `random`, tries that fork anywhere, and `agent`, a long trunk of turns with rollouts that fork at
turns. Sides:

    tree       this project's attention, its plan made beforehand (`plan ms`)
    repeatable on a CPU in half precision, the same with results that depend on no order of sums: in float64
    flex       torch's flex_attention compiled, with the same mask; making its block mask is `plan ms`
    sequences  causal attention over the L tokens of the separate sequences, which lie ready in memory: one
               after the other without padding on the CPU, padded to the longest in one call on a GPU
    segments   scaled_dot_product_attention of each run without a fork over its ancestors' keys and its own
    dense      scaled_dot_product_attention with the [N, N] mask

Times are the fastest of the rounds, the sides in alternation; TFLOP/s count visible pairs, 4 D a pair and
head forward and 10 D backward, for `sequences` those of the tree too. The ideal saving against `sequences` is
their visible pairs over those of the trie, and less than L/N; `of ideal` says how much of it forward and
backward together reach. All sides are compared with `dense`. What is not installed, or can't run a size, is
named. Written to `tree_attention.json` and `.png` in `--output` (`benchmarks/results`, on a GPU its folder
`gpu`).
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.cpu.precision import HALF_DTYPES
from trieline.kernels.tree_attention import reference_tree_attention, tree_attention
from trieline.kernels.tree_plan import TreeAttentionPlan, plan_tree_attention

RESULTS = Path(__file__).parent / "results"
DENSE_LIMIT = 16_384
"""Tokens from which the dense mask is left out: it alone takes N^2 bytes."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Operands = tuple[Tensor, Tensor, Tensor]
"""q [B, H, T, D], k and v [B, G, T, D]."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """A way to attend, and what it attends to."""

    attend: Attention
    """q, k, v to [B, T, H, D]."""
    operands: Operands
    token: Tensor | None = None
    """[B, T] the trie's token that each row of the output stands for; None: all in order."""
    planning: float = 0.0
    """Seconds."""


def random_parents(tokens: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Tries whose branches begin anywhere on the path so far, as deep as L/N = `ratio` asks for."""
    branches = max(1, round(2 * ratio))
    tree = max(tokens // max(1, tokens // 4096), 1)
    trunk_share = 0.0 if ratio <= 1 else (ratio - 1) / (ratio - 0.5)
    return _with_branches(tokens, tree, trunk_share, branches, rng, anywhere=True)


def agent_parents(tokens: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """One prompt and trunk of turns a task, and rollouts of equal length that leave it at its end."""
    branches = max(1, round(2 * ratio))
    tree = max(tokens // max(1, tokens // 16_384), 1)
    trunk_share = 0.0 if ratio <= 1 else (ratio - 1) / (ratio - 0.5)
    return _with_branches(tokens, tree, trunk_share, branches, rng, anywhere=False)


def _with_branches(
    tokens: int, tree: int, trunk_share: float, branches: int, rng: np.random.Generator, *, anywhere: bool
) -> np.ndarray:
    """[tokens] predecessor in preorder, -1 at roots; later branches leave the trunk earlier."""
    parents = np.arange(-1, tokens - 1)
    for start in range(0, tokens, tree):
        stop = min(start + tree, tokens)
        trunk = int((stop - start) * trunk_share)
        parents[start] = -1
        if trunk == 0:
            parents[np.linspace(start, stop, branches + 1).astype(int)[:-1]] = -1
            continue
        begins = np.linspace(start + trunk, stop, branches + 1).astype(int)[1:-1]
        leaves = start + trunk - 1 - (rng.integers(0, trunk, len(begins)) // 2 if anywhere else 0)
        parents[begins] = leaves
    return parents


def subtree_ends(parents: np.ndarray) -> np.ndarray:
    ends = np.arange(1, len(parents) + 1)
    for i in range(len(parents) - 1, -1, -1):
        if parents[i] >= 0:
            ends[parents[i]] = max(ends[parents[i]], ends[i])
    return ends.astype(np.int32)


def paths_of(parents: np.ndarray) -> list[np.ndarray]:
    """Indices from root to leaf of every sequence."""
    depth = np.zeros(len(parents), int)
    for i, parent in enumerate(parents):
        depth[i] = depth[parent] + 1 if parent >= 0 else 1
    leaves = np.setdiff1d(np.arange(len(parents)), parents)
    paths = []
    for leaf in leaves:
        path = np.empty(depth[leaf], int)
        at = leaf
        for place in range(depth[leaf] - 1, -1, -1):
            path[place] = at
            at = parents[at]
        paths.append(path)
    return paths


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def sides_of(
    ends: Tensor, paths: list[np.ndarray], qkv: Operands, options: argparse.Namespace
) -> dict[str, Side | str]:
    """Name to side, or to why it does not run."""
    dtype, scale = qkv[0].dtype, options.head_dim**-0.5
    tokens = len(ends)
    sides: dict[str, Side | str] = {}

    sides["tree"] = tree_side(ends, qkv, scale, reproducible=False)
    if ends.device.type == "cpu" and dtype in HALF_DTYPES:
        sides["repeatable"] = tree_side(ends, qkv, scale, reproducible=True)
    sides["flex"] = flex_side(ends, qkv, scale)
    sides["sequences"] = sequences_side(paths, qkv, options.max_sequence_tokens, scale)
    if ends.device.type == "cpu":
        sides["segments"] = segments_side(ends, qkv, scale)
    else:
        sides["segments"] = "the way of a CPU: one small call after the other"
    if tokens > DENSE_LIMIT:
        sides["dense"] = f"{tokens} tokens are over {DENSE_LIMIT}"
    else:
        sides["dense"] = Side(
            attend=lambda q, k, v: reference_tree_attention(q, k, v, ends, scale=scale), operands=qkv
        )
    return sides


def tree_side(ends: Tensor, qkv: Operands, scale: float, *, reproducible: bool) -> Side:
    def make() -> TreeAttentionPlan:
        return plan_tree_attention(ends, dtype=qkv[0].dtype, reproducible=reproducible)

    plan = make()
    planning = min(seconds_of(make) for _ in range(5))
    return Side(
        attend=lambda q, k, v: tree_attention(q, k, v, plan, scale=scale), operands=qkv, planning=planning
    )


def flex_side(ends: Tensor, qkv: Operands, scale: float) -> Side | str:
    if ends.device.type == "cpu":
        return "flex_attention has no backward on the CPU"
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < ends[j])

    make: Any = torch.compile(create_block_mask)
    tokens = len(ends)
    mask = make(visible, None, None, tokens, tokens, device=ends.device)
    planning = min(
        seconds_of(lambda: make(visible, None, None, tokens, tokens, device=ends.device)) for _ in range(5)
    )
    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = compiled(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)

    return Side(attend=attend, operands=qkv, planning=planning)


def sequences_side(paths: list[np.ndarray], qkv: Operands, limit: int, scale: float) -> Side | str:
    on_cpu = qkv[0].device.type == "cpu"
    lengths = [len(path) for path in paths]
    longest = max(lengths)
    if on_cpu:
        token = np.concatenate(paths)[None]
    else:
        token = np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in paths])
    if token.size > limit:
        return f"{token.size} tokens are over --max-sequence-tokens"
    index = torch.from_numpy(token).to(qkv[0].device)
    q, k, v = (t.detach().transpose(1, 2)[0][index].transpose(1, 2).requires_grad_() for t in qkv)

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        ).transpose(1, 2)

    def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = zip(*(t.split_with_sizes(lengths, dim=2) for t in (q, k, v)), strict=True)
        return torch.cat([causal(*row) for row in rows], dim=1)

    return Side(attend=one_by_one if on_cpu else causal, operands=(q, k, v), token=index)


def segments_side(ends: Tensor, qkv: Operands, scale: float) -> Side:
    subtree_end = ends.tolist()
    starts = [i for i, end in enumerate(subtree_end) if i == 0 or end != subtree_end[i - 1]]
    lengths = [b - a for a, b in zip(starts, [*starts[1:], len(subtree_end)], strict=True)]
    above = [
        [a for a in range(s) if subtree_end[starts[a] + lengths[a] - 1] > starts[s]]
        for s in range(len(starts))
    ]
    keys = [sum(lengths[a] for a in above[s]) + lengths[s] for s in range(len(starts))]
    masks = [
        torch.ones(length, key, dtype=torch.bool).tril(key - length) if key > length else None
        for length, key in zip(lengths, keys, strict=True)
    ]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, own_keys, own_values = (t.split_with_sizes(lengths, dim=2) for t in (q, k, v))
        outs = [
            functional.scaled_dot_product_attention(
                queries[s],
                torch.cat([*(own_keys[a] for a in above[s]), own_keys[s]], dim=2),
                torch.cat([*(own_values[a] for a in above[s]), own_values[s]], dim=2),
                attn_mask=masks[s],
                is_causal=masks[s] is None,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            for s in range(len(starts))
        ]
        return torch.cat(outs, dim=2).transpose(1, 2)

    return Side(attend=attend, operands=qkv)


def measure(
    load: str, tokens: int, ratio: float, dtype: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    parents = (random_parents if load == "random" else agent_parents)(tokens, ratio, rng)
    paths = paths_of(parents)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ends = torch.from_numpy(subtree_ends(parents)).to(device)
    pairs = int((ends.long() - torch.arange(tokens, device=device)).sum())
    q, k, v = (
        torch.randn(1, tokens, heads, options.head_dim, device=device, dtype=getattr(torch, dtype))
        .transpose(1, 2)
        .requires_grad_()
        for heads in (options.heads, options.key_heads, options.key_heads)
    )
    about = {
        "load": load,
        "dtype": dtype,
        "tokens": tokens,
        "sequence_tokens": sum(map(len, paths)),
        "pairs": pairs,
        "ideal_saving": sum(len(path) * (len(path) + 1) // 2 for path in paths) / pairs,
    }
    results: dict[str, dict[str, Any]] = {}
    outputs: dict[str, Tensor] = {}
    running: dict[str, tuple[Side, Tensor]] = {}
    for name, side in sides_of(ends, paths, (q, k, v), options).items():
        results[name] = about | {"side": name}
        if isinstance(side, str):
            results[name]["left_out"] = side
            continue
        try:
            out = side.attend(*side.operands)
            upstream = torch.randn_like(out)
            torch.autograd.grad(out, side.operands, upstream)
        except RuntimeError as error:
            results[name]["left_out"] = str(error).splitlines()[0]
            continue
        outputs[name] = out.detach()
        running[name] = side, upstream
        results[name] |= {"plan_ms": side.planning * 1e3, "forward_ms": np.inf, "backward_ms": np.inf}
    for _ in range(options.rounds):
        for name, (side, upstream) in running.items():
            forward, backward = milliseconds_of(side, upstream)
            row = results[name]
            row["forward_ms"] = min(row["forward_ms"], forward)
            row["backward_ms"] = min(row["backward_ms"], backward)
    work = pairs * options.heads * options.head_dim
    for name, row in results.items():
        if name in running:
            row["forward_tflops"] = 4 * work / row["forward_ms"] / 1e9
            row["backward_tflops"] = 10 * work / row["backward_ms"] / 1e9
            if "dense" in outputs:
                token = running[name][0].token
                expected = outputs["dense"] if token is None else outputs["dense"][0][token]
                row["apart_from_dense"] = float((outputs[name] - expected).float().abs().max())
        print(_line(row, results["tree"]), flush=True)
    return list(results.values())


def milliseconds_of(side: Side, upstream: Tensor) -> tuple[float, float]:
    """Forward without gradients, and backward."""
    with torch.no_grad():
        forward = seconds_of(lambda: side.attend(*side.operands))
    out = side.attend(*side.operands)
    backward = seconds_of(lambda: torch.autograd.grad(out, side.operands, upstream))
    return forward * 1e3, backward * 1e3


def _line(row: dict[str, Any], tree: dict[str, Any]) -> str:
    ratio = row["sequence_tokens"] / row["tokens"]
    head = f"{row['dtype']:8} {row['load']:6} N {row['tokens']:6} L/N {ratio:5.2f} {row['side']:9}"
    if "left_out" in row:
        return f"{head}  left out: {row['left_out']}"
    line = (
        f"{head}  plan {row['plan_ms']:8.3f} ms"
        f"  forward {row['forward_ms']:9.3f} ms ({row['forward_tflops']:7.2f} TFLOP/s)"
        f"  backward {row['backward_ms']:9.3f} ms ({row['backward_tflops']:7.2f} TFLOP/s)"
        f"  tree is {row['forward_ms'] / tree['forward_ms']:5.2f}x and "
        f"{row['backward_ms'] / tree['backward_ms']:5.2f}x as fast"
    )
    if row["side"] == "sequences":
        saving = (row["forward_ms"] + row["backward_ms"]) / (tree["forward_ms"] + tree["backward_ms"])
        line += f", {saving:5.2f}x in all, {saving / row['ideal_saving']:4.0%} of ideal"
    return line


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        print("matplotlib is not installed: no plot")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    largest, dtype = max(row["tokens"] for row in rows), rows[-1]["dtype"]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, key in zip(axes, ("forward_ms", "backward_ms"), strict=True):
        for side in ("tree", "flex", "sequences", "segments", "dense"):
            points = sorted(
                (row["sequence_tokens"] / row["tokens"], row[key])
                for row in rows
                if (row["side"], row["tokens"], row["load"], row["dtype"]) == (side, largest, "agent", dtype)
                and key in row
            )
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=side)
        axis.set(
            xlabel="L/N",
            ylabel="ms",
            title=f"{key.split('_')[0]}, agent, {dtype}, N = {largest}",
            yscale="log",
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [2048, 8192, 16_384, 65_536] if on_gpu else [512, 2048]
    parser.add_argument("--tokens", nargs="+", type=int, default=sizes)
    parser.add_argument("--ratios", nargs="+", type=float, default=[1, 2, 4, 8])
    parser.add_argument("--loads", nargs="+", default=["random", "agent"], choices=["random", "agent"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"] if on_gpu else ["float32", "bfloat16"])
    parser.add_argument("--heads", type=int, default=32 if on_gpu else 9)
    parser.add_argument("--key-heads", type=int, default=8 if on_gpu else 3)
    parser.add_argument("--head-dim", type=int, default=128 if on_gpu else 64)
    parser.add_argument("--rounds", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--max-sequence-tokens", type=int, default=1 << 19)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu" if on_gpu else RESULTS)
    options = parser.parse_args()
    about = machine()
    print(about)
    rows = [
        row
        for dtype in options.dtypes
        for load in options.loads
        for tokens in options.tokens
        for ratio in options.ratios
        for row in measure(load, tokens, ratio, dtype, options)
    ]
    command = "python benchmarks/tree_attention.py " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": about, "options": vars(options), "rows": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "tree_attention.json"
    file.write_text(json.dumps(result, indent=1, default=str) + "\n")
    plot(rows, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
