"""The log-probability head, forward and backward, against plain and chunked logits and Liger-Kernel.

    python benchmarks/token_logprob.py [--rows 8192] [--hidden 4096] [--vocab 151936] [--rounds 5]

Runs on a GPU if there is one, else on the CPU with small sizes; needs torch, and Triton for a GPU. Every side
gives log-probabilities of the targets and entropies, and the gradients of both by hidden states and weight:

    ours     `token_logprob`: no logits kept
    plain    all logits, log_softmax, autograd
    chunked  the same in chunks of rows, each computed again in the backward (torch.utils.checkpoint)
    liger    LigerFusedLinearScaledCrossEntropyFunction (entropy and temperature, since 0.8.3)
    torch    linear_cross_entropy in chunks: no entropy, for orientation

With `--children C` each row has C targets, as in a trie: `liger` and `torch` then get every row C times.
Times are the fastest of the rounds, in alternation. Peak memory is torch's own count on a GPU, operands
included; on a CPU it is how far resident memory rises above what it was. What is not installed or does not
fit is named. Written to `token_logprob.json` and, where matplotlib is, `.png` in `--output`
(`benchmarks/results`, on a GPU its folder `gpu`).
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

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trieline.kernels.token_logprob import reference_token_logprob, token_logprob

RESULTS = Path(__file__).parent / "results"
TEMPERATURE = 0.8
CHUNK_ROWS = 1024
ENTROPY_WEIGHT = 0.01
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    logprobs, entropies = token_logprob(hidden, weight, rows, targets, temperature=TEMPERATURE)
    return _loss(logprobs, entropies)


def plain(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    return _loss(*reference_token_logprob(hidden, weight, rows, targets, temperature=TEMPERATURE))


def chunked(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    per_row = len(rows) // len(hidden)
    loss = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden), CHUNK_ROWS):
        part = hidden[start : start + CHUNK_ROWS]
        here = slice(start * per_row, (start + len(part)) * per_row)
        loss = loss + checkpoint(plain, part, weight, rows[here] - start, targets[here], use_reentrant=False)
    return loss


def _loss(logprobs: Tensor, entropies: Tensor) -> Tensor:
    return -logprobs.sum() - ENTROPY_WEIGHT * entropies.sum()


def liger_side() -> Loss | str:
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction
    except ImportError as error:
        return f"not installed: {error}"

    def liger(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
            hidden[rows], weight, targets, TEMPERATURE, return_entropy=True
        )
        per_row = len(rows) // len(hidden)
        loss: Tensor = nll.sum() - ENTROPY_WEIGHT / per_row * entropy.float().sum()
        return loss

    return liger


def torch_side() -> Loss | str:
    fused: Any = getattr(functional, "linear_cross_entropy", None)
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if fused is None or options is None:
        return f"not in torch {torch.__version__}"

    def by_torch(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        scaled = hidden[rows] / TEMPERATURE
        loss: Tensor = fused(scaled, weight, targets, reduction="sum", options=options())
        return loss

    return by_torch


def run(side: Loss, operands: list[Tensor]) -> tuple[float, float, list[Tensor]]:
    """Seconds, peak bytes, and the gradients of hidden and weight."""
    on_gpu = operands[0].is_cuda
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        resident = _resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    gradients = torch.autograd.grad(side(*operands), operands[:2])
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident_bytes("VmHWM") - resident
    return seconds, peak, list(gradients)


def _resident_bytes(entry: str) -> int:
    """`VmRSS`, what is resident now, or `VmHWM`, the most since the peak began."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(entry))
    return int(line.split()[1]) * 1024


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    hidden = torch.randn(options.rows, options.hidden, device=device, dtype=dtype).requires_grad_()
    weight = torch.randn(options.vocab, options.hidden, device=device, dtype=dtype) * options.hidden**-0.5
    rows = torch.arange(options.rows, device=device).repeat_interleave(options.children)
    targets = torch.randint(0, options.vocab, (len(rows),), device=device)
    operands = [hidden, weight.requires_grad_(), rows, targets]
    sides: dict[str, Loss | str] = {
        "ours": ours, "plain": plain, "chunked": chunked, "liger": liger_side(), "torch": torch_side(),
    }  # fmt: skip
    results: dict[str, dict[str, Any]] = {}
    reference: list[Tensor] | None = None
    for name, side in sides.items():
        results[name] = {"side": name}
        if isinstance(side, str):
            results[name]["left_out"] = side
            continue
        try:
            gradients = run(side, operands)[2]
        except (RuntimeError, TypeError, ValueError) as error:
            results[name]["left_out"] = str(error).splitlines()[0]
            continue
        if reference is None:
            reference = gradients
        apart = [
            float((a - b).float().norm() / b.float().norm())
            for a, b in zip(gradients, reference, strict=True)
        ]
        results[name] |= {"ms": float("inf"), "peak_gib": 0.0, "gradients_apart_from_ours": apart}
        del gradients
    for _ in range(options.rounds):
        for name, row in results.items():
            side = sides[name]
            if "left_out" in row or isinstance(side, str):
                continue
            seconds, peak, _ = run(side, operands)
            row["ms"] = min(row["ms"], seconds * 1e3)
            row["peak_gib"] = max(row["peak_gib"], peak / 2**30)
    for row in results.values():
        if "left_out" in row:
            print(f"{row['side']:8} left out: {row['left_out']}")
            continue
        # Two products forward and in the backward each, and one to compute the logits again.
        row["tflops"] = 6.0 * options.rows * options.hidden * options.vocab / row["ms"] / 1e9
        print(
            f"{row['side']:8} {row['ms']:9.2f} ms  {row['tflops']:7.2f} TFLOP/s"
            f"  peak {row['peak_gib']:6.2f} GiB"
            f"  ours is {row['ms'] / results['ours']['ms']:5.2f}x as fast"
            f"  (gradients {max(row['gradients_apart_from_ours']):.0e} apart)"
        )
    return list(results.values())


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    shown = [row for row in rows if "left_out" not in row]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2))
    names = [row["side"] for row in shown]
    for axis, entry, label in zip(axes, ("ms", "peak_gib"), ("ms", "peak GiB"), strict=True):
        bars = axis.bar(names, [row[entry] for row in shown], color=["C0", *["grey"] * (len(shown) - 1)])
        axis.bar_label(bars, fmt="{:.4g}")
        axis.set_ylabel(label)
        axis.margins(y=0.15)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def machine() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8192 if on_gpu else 256)
    parser.add_argument("--hidden", type=int, default=4096 if on_gpu else 576)
    parser.add_argument("--vocab", type=int, default=151_936 if on_gpu else 49_152)
    parser.add_argument("--children", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--rounds", type=int, default=5 if on_gpu else 3)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu" if on_gpu else RESULTS)
    options = parser.parse_args()
    about = machine()
    print(about)
    rows = measure(options)
    options.output.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/token_logprob.py " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": about, "options": vars(options), "rows": rows}
    file = options.output / "token_logprob.json"
    file.write_text(json.dumps(result, indent=1, default=str) + "\n")
    size = f"{options.rows} rows x {options.hidden} x {options.vocab}, {options.dtype}"
    plot(rows, f"log-probability head, forward and backward: {size}", file.with_suffix(".png"))


if __name__ == "__main__":
    main()
