"""A training step on tries against the same batch as packed separate sequences.

    python benchmarks/train_step.py [--dtypes bfloat16 float32] [--ratios 1 2 4 8] [--rounds 3] [--optimizer]

N is the number of unique tokens, L that of all sequences; what is linear in tokens can gain L/N. Both sides
run the same model (SmolLM2-135M's shape, random weights), the same loss over the same tokens, the same code:
attention in blocks, log-probabilities only where a token was sampled. The separate side is the strong one:
turns merged into one linear row a sequence, rows packed into one forward pass without padding, no mask. Loss
and gradient of both are compared first.

Two loads: `forks`, episodes forked in their middle, where half of the shared part was sampled too, as happens
in trees of turns; and `rollouts`, where only the prompt is shared, so that the output layer does the same
work on both sides (`flops` is the gain that the arithmetic leaves). A round runs both sides one after the
other; the figures are those of each side's fastest round, as other programs can only slow one down. Written
to `benchmarks/results/train_step.json`.
"""

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trieline.actors.wire.tree import SCORED, Int32, TrajectoryTree
from trieline.learner import batch as batch_module
from trieline.learner.batch import Batch, prepare_batch
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.train_step import accumulate_gradients
from trieline.learner.tree_forward import TreeModel
from trieline.learner.trie import Trie

RESULTS = Path(__file__).parent / "results" / "train_step.json"
BAR = 0.85
OBJECTIVE = ObjectiveConfig(loss="sft")
SMOLLM2 = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A batch of equal trees: a trunk, some of whose last tokens were sampled, and sampled branches."""

    trees: int
    trunk: int
    sampled_trunk: int
    branches: int
    branch: int


def shape_for(ratio: int, unique_tokens: int, load: str) -> Shape:
    """The batch of about `unique_tokens` with L/N = `ratio`: 2 * ratio branches on a trunk that fits."""
    if ratio == 1:
        return Shape(
            trees=8, trunk=unique_tokens // 16, sampled_trunk=0, branches=1, branch=unique_tokens // 16
        )
    # L = 2r (trunk + branch) = r N = r (trunk + 2r branch) makes trunk = (2r - 2) branch.
    trees = max(1, 8 // ratio)
    branch = round(unique_tokens / trees / (4 * ratio - 2))
    trunk = (2 * ratio - 2) * branch
    return Shape(
        trees=trees,
        trunk=trunk,
        sampled_trunk=trunk // 2 if load == "forks" else 0,
        branches=2 * ratio,
        branch=branch,
    )


def make_trees(shape: Shape, seed: int = 0) -> list[TrajectoryTree]:
    rng = np.random.default_rng(seed)
    lengths = [shape.trunk - shape.sampled_trunk, *[shape.sampled_trunk] * bool(shape.sampled_trunk)]
    trunk_nodes = len(lengths)
    lengths += [shape.branch] * shape.branches
    num_nodes, num_tokens = len(lengths), sum(lengths)
    by_policy = np.arange(num_tokens) >= lengths[0]
    return [
        TrajectoryTree(
            env_id="benchmark/Tree-v0",
            task_id=str(i),
            parents=np.array([*range(-1, trunk_nodes - 1), *[trunk_nodes - 1] * shape.branches], np.int32),
            node_offsets=np.cumsum([0, *lengths]).astype(np.int32),
            sampled=np.arange(num_nodes) > 0,
            rewards=np.zeros(num_nodes, np.float32),
            fork_causes=("",) * num_nodes,
            token_ids=rng.integers(0, SMOLLM2.vocab_size, num_tokens).astype(np.int32),
            behavior_logprobs=np.zeros(num_tokens, np.float32),
            entropies=np.zeros(num_tokens, np.float32),
            policy_versions=np.where(by_policy, 0, -1).astype(np.int32),
            leaf_nodes=np.arange(trunk_nodes, num_nodes, dtype=np.int32),
            leaf_terminated=np.ones(shape.branches, np.bool_),
            leaf_causes=(SCORED,) * shape.branches,
        )
        for i in range(shape.trees)
    ]


def separate_rows(sequences: Sequence[Int32]) -> Trie:
    """Linear rows, one after the other: a forest that merges nothing."""
    lengths = [len(s) for s in sequences]
    starts = np.cumsum([0, *lengths])
    paths = tuple(np.arange(a, b, dtype=np.int32) for a, b in itertools.pairwise(starts))
    predecessor = np.arange(-1, starts[-1] - 1, dtype=np.int32)
    predecessor[starts[:-1]] = -1
    return Trie(
        token_ids=np.concatenate(sequences),
        position=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        subtree_end=np.repeat(starts[1:], lengths).astype(np.int32),
        predecessor=predecessor,
        paths=paths,
    )


def both_batches(trees: list[TrajectoryTree]) -> tuple[Batch, Batch]:
    merged = prepare_batch(trees, OBJECTIVE, max_tokens=1 << 30)
    with mock.patch.object(batch_module, "build_trie", separate_rows):
        return merged, prepare_batch(trees, OBJECTIVE, max_tokens=1 << 30)


def flops(batch: Batch, layer_parameters: int, output_parameters: int) -> float:
    """Forward and backward of the linear layers, the output layer where a token was sampled."""
    return sum(
        6.0 * (pack.trie.num_tokens * layer_parameters + len(pack.rows) * output_parameters)
        for pack in batch.packs
    )


def compare(model: TreeModel, merged: Batch, separate: Batch) -> dict[str, float]:
    """How far loss and gradient of the two sides are apart."""
    losses, gradients = [], []
    for batch in (merged, separate):
        model.zero_grad(set_to_none=True)
        losses.append(accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)["loss/total"])
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    difference = sum(float((gradients[0][n] - g).double().square().sum()) for n, g in gradients[1].items())
    norm = sum(float(g.double().square().sum()) for g in gradients[1].values())
    return {"loss": abs(losses[0] - losses[1]), "gradient": (difference / norm) ** 0.5}


def fastest(sides: Sequence[Callable[[], None]], rounds: int, clock: Callable[[], float]) -> list[float]:
    seconds = [float("inf")] * len(sides)
    for _ in range(rounds):
        for i, side in enumerate(sides):
            start = clock()
            side()
            seconds[i] = min(seconds[i], clock() - start)
    return seconds


def step(model: TreeModel, batch: Batch, optimizer: torch.optim.Optimizer | None) -> Callable[[], None]:
    def run() -> None:
        # Gradients stay the same memory, as in training.
        model.zero_grad(set_to_none=False)
        accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)
        if optimizer is not None:
            optimizer.step()

    return run


def make_model(dtype: torch.dtype) -> TreeModel:
    torch.manual_seed(0)
    hf_model: Any = LlamaForCausalLM(SMOLLM2)
    return TreeModel(hf_model.to(dtype))


def measure(dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, Any]]:
    model = make_model(dtype)
    embedding = model.output_weight.numel()
    layers = sum(p.numel() for p in model.parameters()) - embedding
    optimizer = None
    if options.optimizer:
        # Float32 masters, as in training: what they are initialised with doesn't matter for the time.
        masters = [torch.zeros(p.shape) for p in model.parameters()]
        optimizer = torch.optim.AdamW(masters, lr=0.0, fused=True)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for load in options.loads:
        for ratio in options.ratios:
            if ratio == 1 and load != options.loads[0]:
                continue
            shape = shape_for(ratio, options.unique_tokens, load)
            merged, separate = both_batches(make_trees(shape))
            apart = compare(model, merged, separate)
            if optimizer is not None:
                for master, p in zip(masters, model.parameters(), strict=True):
                    master.grad = p.grad.float() if p.grad is not None else None
            seconds = fastest([step(model, b, optimizer) for b in (merged, separate)], options.rounds, clock)
            n, total = (sum(p.trie.num_tokens for p in b.packs) for b in (merged, separate))
            gain = seconds[1] / seconds[0]
            row = {
                "load": load if ratio > 1 else "nothing shared",
                "dtype": str(dtype).removeprefix("torch."),
                "unique_tokens": n,
                "sequence_tokens": total,
                "ratio": total / n,
                "flops_ratio": flops(separate, layers, embedding) / flops(merged, layers, embedding),
                "trie_seconds": seconds[0],
                "separate_seconds": seconds[1],
                "trie_gflops": flops(merged, layers, embedding) / seconds[0] / 1e9,
                "separate_gflops": flops(separate, layers, embedding) / seconds[1] / 1e9,
                "speed_up": gain,
                "share_of_ratio": gain * n / total,
                "loss_difference": apart["loss"],
                "gradient_difference": apart["gradient"],
            }
            print(_line(row), flush=True)
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['dtype']:9} {row['load']:15} N {row['unique_tokens']:5} L {row['sequence_tokens']:6}"
        f"  L/N {row['ratio']:5.2f} (flops {row['flops_ratio']:5.2f})"
        f"  trie {row['trie_seconds']:7.2f} s  separate {row['separate_seconds']:7.2f} s"
        f"  {row['speed_up']:5.2f}x = {row['share_of_ratio']:4.0%} of L/N"
        f"  (gradients {row['gradient_difference']:.0e} apart)"
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
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training step on tries against separate sequences")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--ratios", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--loads", nargs="+", default=["forks", "rollouts"])
    parser.add_argument("--unique-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds, for a busy machine; with --threads 1"
    )
    parser.add_argument("--optimizer", action="store_true", help="include AdamW on float32 master weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = machine()
    print(about)
    rows = [row for name in options.dtypes for row in measure(getattr(torch, name), options)]
    RESULTS.parent.mkdir(exist_ok=True)
    result = {
        "machine": about,
        "optimizer": options.optimizer,
        "cpu_time": options.cpu_time,
        "bar": BAR,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    forks = [row for row in rows if row["load"] != "rollouts"]
    worst = min(forks, key=lambda row: row["share_of_ratio"])
    verdict = "reached" if worst["share_of_ratio"] >= BAR else "missed"
    least = f"{worst['share_of_ratio']:.0%} at L/N {worst['ratio']:.2f} in {worst['dtype']}"
    print(f"bar of {BAR:.0%} of L/N {verdict}: the least is {least}")


if __name__ == "__main__":
    main()
