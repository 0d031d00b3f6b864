"""A whole training step on tries against the same batch in rows.

    python -m benchmarks.train_step [--model smollm2 | qwen3-0.6b | qwen3-1.7b | qwen3-4b]
        [--dtypes bfloat16 float32] [--ratios 1 2 4 8 10] [--loads agent forks rollouts]

N is the number of unique tokens, L that of all sequences; what is linear in tokens can gain L/N. All sides
run the same model (random weights), the same loss over the same tokens and the same code: forward, backward,
clipping and AdamW on float32 masters, in passes of at most `--max-tokens`. Sides:

    trie    every shared prefix once
    merged  a sequence's turns in one linear row, rows packed without padding: the honest baseline
    turns   every turn a row that begins with all that was said before it, as others quote

Loads: `agent`, runs of an agent with tools that leave one another at turns, one with a compacted history;
`forks`, branches on a trunk half of which was sampled too; `rollouts`, where only the prompt is shared, so
that the output layer does the same work on both sides. `flops` is the gain that the arithmetic leaves.

Loss and gradient of trie and merged rows are compared first, which also warms up. A round runs both sides one
after the other; the figures are those of each side's fastest round, as other programs can only slow one down.
Runs on a GPU if there is one, and then says the most memory that a side took. Written to `train_step.json`
in `--output` (`benchmarks/results`, on a GPU its folder `gpu`), one entry for each model, precision,
attention and load, with a picture beside it; what is there for others stays.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from benchmarks.loads import (
    OBJECTIVE,
    VOCABULARY,
    agent_trees,
    make_trees,
    merged_rows,
    shape_for,
    turn_rows,
)
from trieline.kernels.cpu.flags import BFLOAT16_FLAGS, cpu_flags
from trieline.learner.allocator import keep_freed_memory
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.config import OptimizerConfig
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.model_folder.shapes import SHAPES
from trieline.learner.update.optimizer import MasterOptimizer
from trieline.learner.update.train_step import accumulate_gradients
from trieline.wire.tree import TrajectoryTree

RESULTS = Path(__file__).parent / "results"
BAR = 0.9
ALONE = "nothing shared"


def make_model(
    config: PreTrainedConfig, dtype: torch.dtype, device: str = "cpu", *, reproducible: bool = True
) -> TreeModel:
    torch.manual_seed(0)
    from_config: Any = AutoModelForCausalLM.from_config  # without annotations
    with torch.device(device):
        hf_model = from_config(config)
    return TreeModel(hf_model.to(dtype), reproducible=reproducible)


def make_optimizer(model: TreeModel, dtype: torch.dtype) -> MasterOptimizer:
    return MasterOptimizer(
        model.hf_model.named_parameters(), OptimizerConfig(), total_steps=1, compute_dtype=dtype
    )


def trees_for(
    load: str, ratio: int, unique_tokens: int, *, vocabulary: int = VOCABULARY
) -> list[TrajectoryTree]:
    """`vocabulary`: of the model; the tokens are of the first `VOCABULARY` at most."""
    vocabulary = min(vocabulary, VOCABULARY)
    if load == "agent" and ratio > 1:
        return agent_trees(ratio, unique_tokens, vocabulary=vocabulary)
    return make_trees(shape_for(ratio, unique_tokens, load), vocabulary=vocabulary)


def flops(batch: Batch, model: TreeModel) -> float:
    """Forward and backward of the linear layers, the output layer where a token was sampled."""
    output = model.output_weight.numel()
    layers = sum(p.numel() for p in model.parameters()) - output
    return sum(6.0 * (pack.trie.num_tokens * layers + len(pack.rows) * output) for pack in batch.packs)


def compare(model: TreeModel, optimizer: MasterOptimizer, batches: Sequence[Batch]) -> dict[str, float]:
    """How far loss and gradient of two batches are apart."""
    losses, gradients = [], []
    for batch in batches:
        optimizer.zero_grad()
        losses.append(accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)["loss/total"])
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    optimizer.zero_grad()
    difference = sum(float((gradients[0][n] - g).double().square().sum()) for n, g in gradients[1].items())
    norm = sum(float(g.double().square().sum()) for g in gradients[1].values())
    return {"loss": abs(losses[0] - losses[1]), "gradient": (difference / norm) ** 0.5}


def fastest(sides: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    seconds = [float("inf")] * len(sides)
    for _ in range(rounds):
        for i, side in enumerate(sides):
            start = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    return seconds


def peak_gib(side: Callable[[], None]) -> float | None:
    """The most of a GPU's memory that tensors take while `side` runs, model and optimizer included."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    side()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def step(model: TreeModel, batch: Batch, optimizer: MasterOptimizer) -> Callable[[], None]:
    """A whole step that leaves the weights as they are: its learning rate is 0."""

    def run() -> None:
        accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)
        optimizer.step(lr=0.0)

    return run


def tokens_of(batch: Batch) -> int:
    return sum(pack.trie.num_tokens for pack in batch.packs)


def measure(dtype: torch.dtype, options: argparse.Namespace, *, with_turns: bool) -> Iterator[dict[str, Any]]:
    model = make_model(SHAPES[options.model], dtype, options.device, reproducible=options.reproducible)
    optimizer = make_optimizer(model, dtype)
    vocabulary = SHAPES[options.model].vocab_size
    for load in options.loads:
        for ratio in options.ratios:
            if ratio == 1 and load != options.loads[0]:
                continue
            trees = trees_for(load, ratio, options.unique_tokens, vocabulary=vocabulary)
            trie = prepare_batch(trees, OBJECTIVE, max_tokens=options.max_tokens)
            merged = merged_rows(trees, options.max_tokens)
            apart = compare(model, optimizer, (trie, merged)) if options.compare else {}
            sides = [step(model, b, optimizer) for b in (trie, merged)]
            peaks = [peak_gib(side) for side in sides]
            seconds = fastest(sides, options.rounds)
            n, total = tokens_of(trie), tokens_of(merged)
            row = {
                "model": options.model,
                "dtype": str(dtype).removeprefix("torch."),
                "reproducible_attention": options.reproducible,
                "load": load if ratio > 1 else ALONE,
                "unique_tokens": n,
                "sequence_tokens": total,
                "ratio": total / n,
                "flops_ratio": flops(merged, model) / flops(trie, model),
                "trie_seconds": seconds[0],
                "merged_seconds": seconds[1],
                "trie_gflops": flops(trie, model) / seconds[0] / 1e9,
                "merged_gflops": flops(merged, model) / seconds[1] / 1e9,
                "speed_up": seconds[1] / seconds[0],
                "share_of_ratio": seconds[1] / seconds[0] * n / total,
                "loss_difference": apart.get("loss"),
                "gradient_difference": apart.get("gradient"),
            }
            if all(peaks):
                row |= {"trie_peak_gib": peaks[0], "merged_peak_gib": peaks[1]}
            if with_turns and load == "agent" and ratio in options.turn_ratios:
                turns = turn_rows(trees, options.max_tokens)
                (turn_seconds,) = fastest([step(model, turns, optimizer)], 1)
                row |= {"turn_tokens": tokens_of(turns), "turn_seconds": turn_seconds}
            print(_line(row), flush=True)
            yield row


def _line(row: dict[str, Any]) -> str:
    turns = ""
    if "turn_seconds" in row:
        turns = (
            f"  turns {row['turn_tokens']} tokens {row['turn_seconds']:.2f} s "
            f"= {row['turn_seconds'] / row['trie_seconds']:.1f}x"
        )
    apart = row["gradient_difference"]
    gradients = "not compared" if apart is None else f"{apart:.0e} apart"
    memory = (
        f"  peak {row['trie_peak_gib']:.1f} and {row['merged_peak_gib']:.1f} GiB"
        if "trie_peak_gib" in row
        else ""
    )
    return (
        f"{row['dtype']:9} {row['load']:15} N {row['unique_tokens']:5} L {row['sequence_tokens']:6}"
        f"  L/N {row['ratio']:5.2f} (flops {row['flops_ratio']:5.2f})"
        f"  trie {row['trie_seconds']:7.2f} s  merged {row['merged_seconds']:7.2f} s"
        f"  {row['speed_up']:5.2f}x = {row['share_of_ratio']:4.0%} of L/N"
        f"  (gradients {gradients}){memory}{turns}"
    )


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": sorted(cpu_flags() & BFLOAT16_FLAGS),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _kind(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("model", "dtype", "reproducible_attention", "load"))


def keep(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Write the rows in the place of those of the same model, precision, attention and load; all of them."""
    about = {"machine": machine(), "rounds": options.rounds, "max_tokens": options.max_tokens}
    new = [row | about for row in rows]
    measured = {_kind(row) for row in new}
    file = options.output / "train_step.json"
    found = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = [row for row in found if _kind(row) not in measured]
    options.output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"bar": BAR, "rows": kept + new}, indent=1) + "\n")
    return kept + new


def _panel(row: dict[str, Any]) -> str:
    fast = "" if row["reproducible_attention"] else ", attention in it too"
    return f"{row['model']} {row['dtype']}{fast}"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    panels = sorted({_panel(row) for row in rows})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        chosen = [row for row in rows if _panel(row) == panel]
        most = max(row["ratio"] for row in chosen)
        for share, style in ((1.0, "-"), (BAR, ":")):
            axis.plot([1, most], [share, share * most], style, color="grey", label=f"{share:.0%} of L/N")
        for load in sorted({row["load"] for row in chosen} - {ALONE}):
            line = [row for row in chosen if row["load"] in (load, ALONE)]
            points = sorted((row["ratio"], row["speed_up"]) for row in line)
            axis.plot(*zip(*points, strict=True), marker=".", label=load)
        axis.set(title=panel, xlabel="L/N", ylabel="times as fast as merged rows")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--ratios", nargs="+", type=int, default=[1, 2, 4, 8, 10])
    parser.add_argument("--loads", nargs="+", default=["agent", "forks", "rollouts"])
    parser.add_argument(
        "--turn-ratios", nargs="*", type=int, default=[2, 4], help="with the first precision, load agent"
    )
    parser.add_argument(
        "--reproducible",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="as learner.reproducible_attention: bfloat16's attention in float64, or in bfloat16",
    )
    parser.add_argument("--unique-tokens", type=int, default=2048)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "gpu" if torch.cuda.is_available() else RESULTS
    )
    parser.add_argument(
        "--compare", action=argparse.BooleanOptionalAction, default=True, help="the gradients of both sides"
    )
    options = parser.parse_args()
    keep_freed_memory()  # as the learner's program does
    torch.set_num_threads(options.threads)
    print(machine())
    rows: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for number, name in enumerate(options.dtypes):
        for row in measure(getattr(torch, name), options, with_turns=number == 0):
            rows.append(row)
            kept = keep(rows, options)
    plot(kept, options.output / "train_step.png")
    judged = [row for row in rows if row["load"] != "rollouts"]
    if judged:
        worst = min(judged, key=lambda row: row["share_of_ratio"])
        verdict = "reached" if worst["share_of_ratio"] >= BAR else "missed"
        least = f"{worst['share_of_ratio']:.0%} at L/N {worst['ratio']:.2f} in {worst['dtype']}"
        print(f"bar of {BAR:.0%} of L/N {verdict}: the least without rollouts is {least}")


if __name__ == "__main__":
    main()
