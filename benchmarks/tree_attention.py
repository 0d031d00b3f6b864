"""Tree attention against other ways to attend to the same tries, on a GPU and on a CPU.

    python -m benchmarks.tree_attention [--tokens 2048 8192 ...] [--ratios 1 2 4 8] [--rounds 10]
        [--sides tree flex ...]

Runs on a GPU if there is one, else on the CPU with small sizes; needs torch, and Triton for a GPU, and
draws a plot where matplotlib is. N is the number of tokens of a pack of tries, L that of its sequences.
Loads: `random`, tries that fork anywhere, and `agent`, a long trunk of turns with rollouts that fork at
turns. Sides (`benchmarks/attention_sides.py`):

    tree       this project's attention, its plan made beforehand (`plan ms`)
    repeatable on a CPU in half precision, the same with results that depend on no order of sums: in float64
    flex       torch's flex_attention compiled, with the same mask; making its block mask is `plan ms`
    intervals  cudnn.flex_attention (nvidia-cudnn-frontend), the mask as intervals of keys
    sequences  causal attention over the L tokens of the separate sequences, which lie ready in memory: one
               after the other without padding on the CPU, padded to the longest in one call on a GPU
    cudnn      the same padded call, by cuDNN
    flash      the L tokens without padding in one call of FlashAttention (flash_attn, or its version 3)
    varlen     the same by torch's own FlashAttention (torch.nn.attention.varlen)
    gather     the trie's N queries, each run without a fork over a copy of the keys of its whole path, as TRL
               does it: in one call of FlashAttention
    segments   the same on a CPU: scaled_dot_product_attention of each run, one after the other
    dense      scaled_dot_product_attention with the [N, N] mask

Each side is held against the formula in float64 before it is timed: the output of some queries, and all
gradients that come of them. Times are the fastest of the rounds, the sides in alternation; TFLOP/s count
visible pairs, 4 D a pair and head forward and 10 D backward, for separate sequences those of the tree too.
The ideal saving against them is their visible pairs over those of the trie, and less than L/N; `of ideal`
says how much of it forward and backward together reach. What is not installed, can't run a size, or is
wrong, is named. Written to `tree_attention.json` and `.png` in `--output` (`benchmarks/results`, on a GPU its
folder `gpu`), each pack when it is done.
"""

import argparse
import itertools
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attention_loads import agent_parents, paths_of, random_parents, subtree_ends
from benchmarks.attention_sides import SIDES, LeftOutError, Pack, Side, seconds_of

RESULTS = Path(__file__).parent / "results"
CHECKED_QUERIES = 16
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Of an output or a gradient, relative to its norm; roundings of the precision alone are a quarter of it."""
SEPARATE = ("sequences", "cudnn", "flash", "varlen")


class Formula:
    """Attention of some queries of a pack in float64, and what all gradients are if only they count."""

    def __init__(self, pack: Pack, rng: np.random.Generator) -> None:
        q, k, v = (t.detach()[0].double().requires_grad_() for t in pack.qkv)
        heads, tokens, size = q.shape
        count = min(CHECKED_QUERIES, tokens)
        self.queries = torch.from_numpy(np.sort(rng.choice(tokens, count, replace=False))).to(q.device)
        index = torch.arange(tokens, device=q.device)
        seen = (index <= self.queries[:, None]) & (self.queries[:, None] < pack.ends)
        chosen_GMRD = q[:, self.queries].view(len(k), -1, count, size)
        scores = (pack.scale * chosen_GMRD @ k[:, None].mT).masked_fill(~seen, -torch.inf)
        out_HRD = (scores.softmax(-1) @ v[:, None]).view(heads, count, size)
        self.upstream = torch.randn(count, heads, size, device=q.device, dtype=pack.qkv[0].dtype)
        gradients = torch.autograd.grad(out_HRD.transpose(0, 1), (q, k, v), self.upstream.double())
        self.expected = [out_HRD.detach().transpose(0, 1), *gradients]

    def apart(self, side: Side) -> dict[str, float]:
        """How far output and gradients of a side are from these, relative to their norms."""
        out = side.attend(*side.operands)
        flat = out.flatten(0, 1)
        token = torch.arange(len(flat), device=out.device) if side.token is None else side.token.flatten()
        # Of a token that stands in several rows the first counts, which no padding is.
        places = (token == self.queries[:, None]).int().argmax(1)
        upstream = torch.zeros_like(flat).index_copy(0, places, self.upstream)
        gradients = torch.autograd.grad(out, side.operands, upstream.view_as(out))
        found = [flat.detach()[places].double()]
        for gradient, expected in zip(gradients, self.expected[1:], strict=True):
            rows = gradient.float().transpose(1, 2).flatten(0, 1)
            sums = rows.new_zeros(expected.transpose(0, 1).shape).index_add_(0, token, rows)
            found.append(sums.transpose(0, 1).double())
        return {
            name: float((one - expected).norm() / expected.norm())
            for name, one, expected in zip(("out", "q", "k", "v"), found, self.expected, strict=True)
        }


def pack_of(
    load: str, tokens: int, ratio: float, dtype: str, options: argparse.Namespace
) -> tuple[Pack, dict[str, Any]]:
    parents = (random_parents if load == "random" else agent_parents)(tokens, ratio, np.random.default_rng(0))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ends = torch.from_numpy(subtree_ends(parents)).to(device)
    q, k, v = (
        torch.randn(1, tokens, heads, options.head_dim, device=device, dtype=getattr(torch, dtype))
        .transpose(1, 2)
        .requires_grad_()
        for heads in (options.heads, options.key_heads, options.key_heads)
    )
    pack = Pack(
        ends=ends,
        paths=paths_of(parents),
        qkv=(q, k, v),
        scale=options.head_dim**-0.5,
        most_sequence_tokens=options.max_sequence_tokens,
    )
    pairs = int((ends.long() - torch.arange(tokens, device=device)).sum())
    about = {
        "load": load,
        "dtype": dtype,
        "tokens": tokens,
        "sequence_tokens": sum(map(len, pack.paths)),
        "pairs": pairs,
        "ideal_saving": sum(len(path) * (len(path) + 1) // 2 for path in pack.paths) / pairs,
    }
    return pack, about


def make_side(name: str, pack: Pack, formula: Formula, row: dict[str, Any]) -> Side | None:
    """None: the row says why it is not timed."""
    try:
        side = SIDES[name](pack)
        row["apart_from_formula"] = formula.apart(side)
    except LeftOutError as error:
        row["left_out"] = str(error)
        return None
    except Exception as error:  # noqa: BLE001 - whatever a library says is the result
        row["left_out"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return None
    what, worst = max(row["apart_from_formula"].items(), key=lambda entry: entry[1])
    if not worst <= TOLERANCE[pack.qkv[0].dtype]:
        row["left_out"] = f"it is wrong: {what} is {worst:.1e} from the formula"
        return None
    return side


def measure(
    load: str, tokens: int, ratio: float, dtype: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    pack, about = pack_of(load, tokens, ratio, dtype, options)
    formula = Formula(pack, np.random.default_rng(1))
    results: dict[str, dict[str, Any]] = {}
    running: dict[str, tuple[Side, Tensor]] = {}
    for name in options.sides:
        results[name] = row = about | {"side": name}
        side = make_side(name, pack, formula, row)
        if side is None:
            continue
        upstream = torch.randn_like(side.attend(*side.operands))
        running[name] = side, upstream
        row |= {"plan_ms": side.planning * 1e3, "forward_ms": np.inf, "backward_ms": np.inf}
    for _ in range(options.rounds):
        for name, (side, upstream) in running.items():
            forward, backward = milliseconds_of(side, upstream)
            row = results[name]
            row["forward_ms"] = min(row["forward_ms"], forward)
            row["backward_ms"] = min(row["backward_ms"], backward)
    work = about["pairs"] * options.heads * options.head_dim
    for name, row in results.items():
        if name in running:
            row["forward_tflops"] = 4 * work / row["forward_ms"] / 1e9
            row["backward_tflops"] = 10 * work / row["backward_ms"] / 1e9
        print(_line(row, results.get("tree", {})), flush=True)
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
    )
    if "forward_ms" not in tree:
        return line
    line += (
        f"  tree is {row['forward_ms'] / tree['forward_ms']:5.2f}x and "
        f"{row['backward_ms'] / tree['backward_ms']:5.2f}x as fast"
    )
    if row["side"] in SEPARATE:
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
        for side in SIDES:
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
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--max-sequence-tokens", type=int, default=1 << 19)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu" if on_gpu else RESULTS)
    options = parser.parse_args()
    about = machine()
    print(about)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "tree_attention.json"
    command = "python -m benchmarks.tree_attention " + " ".join(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    result = {"command": command.strip(), "machine": about, "options": vars(options), "rows": rows}
    for case in itertools.product(options.dtypes, options.loads, options.tokens, options.ratios):
        dtype, load, tokens, ratio = case
        rows += measure(load, tokens, ratio, dtype, options)
        file.write_text(json.dumps(result, indent=1, default=str) + "\n")
    plot(rows, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
