"""The log-probability head, forward and backward, against plain and chunked logits and Liger-Kernel.

    python -m benchmarks.token_logprob [--rows 8192] [--hidden 4096] [--vocab 151936] [--rounds 5]

Runs on a GPU if there is one, else on the CPU with small sizes; needs torch, and Triton for a GPU. Every side
gives log-probabilities of the targets and entropies, and the gradients of both by hidden states and weight:

    ours     `token_logprob`: no logits kept
    plain    all logits, log_softmax, autograd
    chunked  the same in chunks of rows, each computed again in the backward (torch.utils.checkpoint)
    gather   all logits, in the precision of the operands throughout: that of the target less logsumexp
    trl      all logits, and TRL's selective_log_softmax with its entropy
    liger    LigerFusedLinearScaledCrossEntropyFunction (entropy and temperature, since 0.8.3)
    torch    linear_cross_entropy in chunks: no entropy, for orientation

With `--children C` each row has C targets, as in a trie: all but `ours` and `plain` then get every row C
times. Each side's loss and gradients are held against those in float32, or float64 for float32, before it is
timed. Times are the fastest of the rounds, in alternation. Peak memory is torch's own count on a GPU,
operands included; on a CPU it is how far resident memory rises above what it was. What is not installed, does
not fit, or is wrong, is named. Written to `token_logprob.json` and, where matplotlib is, `.png` in `--output`
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

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trieline.kernels.token_logprob import reference_token_logprob, token_logprob

RESULTS = Path(__file__).parent / "results"
TEMPERATURE = 0.8
CHUNK_ROWS = 1024
ENTROPY_WEIGHT = 0.01
ENTROPY_ROWS = 128
"""Whose entropies TRL computes at a time."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the loss and of the gradients, relative to their norms."""
WITHOUT_ENTROPY = ("torch",)
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


def gathered(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden[rows], weight) / TEMPERATURE
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    entropies = []
    for start in range(0, len(logits), ENTROPY_ROWS):
        part = logits[start : start + ENTROPY_ROWS]
        logs = part.log_softmax(-1)
        entropies.append(-(logs.exp() * logs).sum(-1))
    return _loss(logprobs.float(), torch.cat(entropies).float() * len(hidden) / len(rows))


def trl_side() -> Loss | str:
    try:
        from trl.trainer import utils
    except (ImportError, RuntimeError) as error:
        return f"not installed: {error}"
    functions: Any = utils
    both = getattr(functions, "selective_log_softmax_and_entropy", None)

    def by_trl(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        logits = functional.linear(hidden[rows], weight)[None]
        if both is not None:
            logprobs, entropies = both(logits, targets[None], temperature=TEMPERATURE)
        else:
            logits = logits / TEMPERATURE
            logprobs = functions.selective_log_softmax(logits, targets[None])
            entropies = functions.entropy_from_logits(logits)
        return _loss(logprobs.float(), entropies.float() * len(hidden) / len(rows))

    return by_trl


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


class Formula:
    """Loss and gradients in a higher precision, with entropies and without."""

    def __init__(self, operands: list[Tensor]) -> None:
        dtype = torch.float64 if operands[0].dtype == torch.float32 else torch.float32
        self._exact = [t.detach().to(dtype).requires_grad_() for t in operands[:2]]
        self._others = operands[2:]
        self._tolerance = TOLERANCE[operands[0].dtype]
        self._expected = {with_entropy: self._of(with_entropy) for with_entropy in (True, False)}

    def _of(self, with_entropy: bool) -> list[Tensor]:
        hidden, weight = self._exact
        rows, targets = self._others
        per_row = len(rows) // len(hidden)
        found = [hidden.new_zeros(()), *map(torch.zeros_like, self._exact)]
        for start in range(0, len(hidden), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(hidden))
            here = slice(start * per_row, stop * per_row)
            logprobs, entropies = reference_token_logprob(
                hidden[start:stop], weight, rows[here] - start, targets[here], temperature=TEMPERATURE
            )
            loss = _loss(logprobs, entropies if with_entropy else entropies[:0])
            for total, part in zip(
                found, (loss.detach(), *torch.autograd.grad(loss, self._exact)), strict=True
            ):
                total += part
        return found

    def apart(self, name: str, side: Loss, operands: list[Tensor]) -> list[float]:
        """How far the loss of a side and its gradients are from these, relative to their norms."""
        loss = side(*operands)
        gradients = torch.autograd.grad(loss, operands[:2])
        expected = self._expected[name not in WITHOUT_ENTROPY]
        return [
            float((one.to(wanted.dtype) - wanted).norm() / wanted.norm())
            for one, wanted in zip((loss.detach(), *gradients), expected, strict=True)
        ]

    def why_wrong(self, apart: list[float]) -> str | None:
        worst = max(apart, key=lambda one: float("inf") if one != one else one)
        return None if worst <= self._tolerance else f"it is wrong: {worst:.1e} from the formula"


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
        "ours": ours, "plain": plain, "chunked": chunked, "gather": gathered, "trl": trl_side(),
        "liger": liger_side(), "torch": torch_side(),
    }  # fmt: skip
    formula = Formula(operands)
    results: dict[str, dict[str, Any]] = {}
    running: dict[str, Loss] = {}
    for name, side in sides.items():
        row: dict[str, Any] = {"side": name}
        results[name] = row
        if isinstance(side, str):
            row["left_out"] = side
            continue
        try:
            row["apart_from_formula"] = apart = formula.apart(name, side, operands)
        except Exception as error:  # noqa: BLE001 - whatever a library says is the result
            row["left_out"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            continue
        if wrong := formula.why_wrong(apart):
            row["left_out"] = wrong
            continue
        running[name] = side
        row |= {"ms": float("inf"), "peak_gib": 0.0}
    del formula
    for _ in range(options.rounds):
        for name, side in running.items():
            row = results[name]
            seconds, peak, _ = run(side, operands)
            row["ms"] = min(row["ms"], seconds * 1e3)
            row["peak_gib"] = max(row["peak_gib"], peak / 2**30)
    for row in results.values():
        if "left_out" in row:
            print(f"{row['side']:8} left out: {row['left_out']}")
            continue
        # Two products forward and in the backward each, and one to compute the logits again.
        row["tflops"] = 6.0 * options.rows * options.hidden * options.vocab / row["ms"] / 1e9
        ours_ms = results["ours"].get("ms", float("nan"))
        print(
            f"{row['side']:8} {row['ms']:9.2f} ms  {row['tflops']:7.2f} TFLOP/s"
            f"  peak {row['peak_gib']:6.2f} GiB  ours is {row['ms'] / ours_ms:5.2f}x as fast"
            f"  ({max(row['apart_from_formula']):.0e} from the formula)"
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
    command = "python -m benchmarks.token_logprob " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": about, "options": vars(options), "rows": rows}
    file = options.output / "token_logprob.json"
    file.write_text(json.dumps(result, indent=1, default=str) + "\n")
    size = f"{options.rows} rows x {options.hidden} x {options.vocab}, {options.dtype}"
    plot(rows, f"log-probability head, forward and backward: {size}", file.with_suffix(".png"))


if __name__ == "__main__":
    main()
