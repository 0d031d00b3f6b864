"""Tree attention against FlexAttention with the same mask, separate sequences, and a dense mask.

    python benchmarks/tree_attention.py [--tokens 2048 8192 ...] [--ratios 1 2 4 10] [--rounds 10]

Runs on a GPU if there is one, else on the CPU with small sizes; needs torch, and Triton for a GPU, and
draws a plot where matplotlib is. N is the number of tokens of a pack of tries, L that of its sequences.
Loads: `random`, tries that fork anywhere, and `agent`, a long trunk of turns with rollouts that fork at
turns. Sides:

    tree       this project's attention, its plan made beforehand (`plan ms`)
    flex       torch's flex_attention compiled, with the same mask; making its block mask is `plan ms`
    sequences  causal attention over the L tokens of the separate sequences, padded to the longest
    dense      scaled_dot_product_attention with the [N, N] mask

Times are the fastest of the rounds, the sides in alternation; TFLOP/s count visible pairs, 4 D a pair and
head forward and 10 D backward, for `sequences` those of the tree too. All sides are compared with `dense`.
What is not installed, or can't run a size, is named. Written to `benchmarks/results/tree_attention.json`
and `.png`.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trieline.kernels.tree_attention import plan_tree_attention, reference_tree_attention, tree_attention

RESULTS = Path(__file__).parent / "results" / "tree_attention.json"
DENSE_LIMIT = 16_384
"""Tokens from which the dense mask is left out: it alone takes N^2 bytes."""
Side = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def sides_of(ends: Tensor, paths: list[np.ndarray], options: argparse.Namespace) -> dict[str, Any]:
    """Name to (attention, seconds of planning), or to why it does not run."""
    dtype, scale = getattr(torch, options.dtype), options.head_dim**-0.5
    device, tokens = ends.device, len(ends)
    sides: dict[str, Any] = {}

    plan_tree_attention(ends, dtype=dtype)
    planning = min(seconds_of(lambda: plan_tree_attention(ends, dtype=dtype)) for _ in range(5))
    plan = plan_tree_attention(ends, dtype=dtype)
    sides["tree"] = (lambda q, k, v: tree_attention(q, k, v, plan, scale=scale), planning)
    sides["flex"] = flex_side(ends, scale)

    longest = max(map(len, paths))
    padded = np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in paths])
    index = torch.from_numpy(padded).to(device)
    if index.numel() > options.max_sequence_tokens:
        sides["sequences"] = f"{index.numel()} padded tokens are over --max-sequence-tokens"
    else:
        sides["sequences"] = (lambda q, k, v: sequences(q, k, v, index, scale), 0.0)
    if tokens > DENSE_LIMIT:
        sides["dense"] = f"{tokens} tokens are over {DENSE_LIMIT}"
    else:
        sides["dense"] = (lambda q, k, v: reference_tree_attention(q, k, v, ends, scale=scale), 0.0)
    return sides


def flex_side(ends: Tensor, scale: float) -> Any:
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

    return attend, planning


def sequences(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float) -> Tensor:
    """[1, T, H, D] rows of the separate sequences, gathered from and scattered to the trie's tokens."""
    rows = [t[0][:, index].transpose(0, 1) for t in (q, k, v)]
    out = functional.scaled_dot_product_attention(
        rows[0], rows[1], rows[2], is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    flat = out.transpose(1, 2).reshape(1, -1, q.shape[1], q.shape[3])
    by_token = torch.zeros_like(q).transpose(1, 2)
    # Any of the equal copies stands for its token.
    return by_token.index_copy(1, index.reshape(-1), flat)


def measure(load: str, tokens: int, ratio: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    parents = (random_parents if load == "random" else agent_parents)(tokens, ratio, rng)
    paths = paths_of(parents)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ends = torch.from_numpy(subtree_ends(parents)).to(device)
    pairs = int((ends.long() - torch.arange(tokens, device=device)).sum())
    heads = (options.heads, options.key_heads, options.key_heads)
    qkv = [
        torch.randn(1, tokens, h, options.head_dim, device=device, dtype=getattr(torch, options.dtype))
        .transpose(1, 2)
        .requires_grad_()
        for h in heads
    ]
    upstream = torch.randn(1, tokens, options.heads, options.head_dim, device=device, dtype=qkv[0].dtype)
    sides = sides_of(ends, paths, options)
    results: dict[str, dict[str, Any]] = {}
    outputs: dict[str, Tensor] = {}
    for name, side in sides.items():
        results[name] = {
            "load": load,
            "tokens": tokens,
            "sequence_tokens": sum(map(len, paths)),
            "pairs": pairs,
            "side": name,
        }
        if isinstance(side, str):
            results[name]["left_out"] = side
            continue
        try:
            out = side[0](*qkv)
            torch.autograd.grad(out, qkv, upstream)
            outputs[name] = out.detach()
        except RuntimeError as error:
            results[name]["left_out"] = str(error).splitlines()[0]
            continue
        results[name] |= {"plan_ms": side[1] * 1e3, "forward_ms": np.inf, "backward_ms": np.inf}
    for _ in range(options.rounds):
        for name, row in results.items():
            if "left_out" in row:
                continue
            run: Side = sides[name][0]
            with torch.no_grad():
                row["forward_ms"] = min(row["forward_ms"], seconds_of(lambda: run(*qkv)) * 1e3)  # noqa: B023
            out = run(*qkv)
            backward = seconds_of(lambda: torch.autograd.grad(out, qkv, upstream)) * 1e3  # noqa: B023
            row["backward_ms"] = min(row["backward_ms"], backward)
    for name, row in results.items():
        if "left_out" not in row:
            work = pairs * options.heads * options.head_dim
            row["forward_tflops"] = 4 * work / row["forward_ms"] / 1e9
            row["backward_tflops"] = 10 * work / row["backward_ms"] / 1e9
            if "dense" in outputs:
                row["apart_from_dense"] = float((outputs[name] - outputs["dense"]).float().abs().max())
        print(_line(row, results["tree"]), flush=True)
    return list(results.values())


def _line(row: dict[str, Any], tree: dict[str, Any]) -> str:
    ratio = row["sequence_tokens"] / row["tokens"]
    head = f"{row['load']:7} N {row['tokens']:6} L/N {ratio:5.2f} {row['side']:9}"
    if "left_out" in row:
        return f"{head}  left out: {row['left_out']}"
    return (
        f"{head}  plan {row['plan_ms']:8.3f} ms"
        f"  forward {row['forward_ms']:9.3f} ms ({row['forward_tflops']:7.2f} TFLOP/s)"
        f"  backward {row['backward_ms']:9.3f} ms ({row['backward_tflops']:7.2f} TFLOP/s)"
        f"  tree is {row['forward_ms'] / tree['forward_ms']:5.2f}x and "
        f"{row['backward_ms'] / tree['backward_ms']:5.2f}x as fast"
    )


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

    largest = max(row["tokens"] for row in rows)
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, key in zip(axes, ("forward_ms", "backward_ms"), strict=True):
        for side in ("tree", "flex", "sequences", "dense"):
            points = sorted(
                (row["sequence_tokens"] / row["tokens"], row[key])
                for row in rows
                if row["side"] == side and row["tokens"] == largest and row["load"] == "agent" and key in row
            )
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=side)
        axis.set(xlabel="L/N", ylabel="ms", title=f"{key.split('_')[0]}, agent, N = {largest}", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [2048, 8192, 16_384, 65_536] if on_gpu else [512, 1024]
    parser.add_argument("--tokens", nargs="+", type=int, default=sizes)
    parser.add_argument("--ratios", nargs="+", type=float, default=[1, 2, 4, 10])
    parser.add_argument("--loads", nargs="+", default=["random", "agent"], choices=["random", "agent"])
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--heads", type=int, default=32 if on_gpu else 9)
    parser.add_argument("--key-heads", type=int, default=8 if on_gpu else 3)
    parser.add_argument("--head-dim", type=int, default=128 if on_gpu else 64)
    parser.add_argument("--rounds", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--max-sequence-tokens", type=int, default=1 << 19)
    options = parser.parse_args()
    about = machine()
    print(about)
    rows = [
        row
        for load in options.loads
        for tokens in options.tokens
        for ratio in options.ratios
        for row in measure(load, tokens, ratio, options)
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    command = "python benchmarks/tree_attention.py " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": about, "options": vars(options), "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
