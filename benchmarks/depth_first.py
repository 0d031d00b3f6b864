"""Depth-first execution of a trie beyond the budget: its memory, its time, its gradients.

    python -m benchmarks.depth_first [--layers 30] [--unique-tokens 32768] [--path 2048] [--rounds 3]

Three comparisons, the model having SmolLM2-135M's shape (or fewer of its layers) and random weights:

memory      a trie of `--unique-tokens` whose longest path has `--path` tokens, run depth-first with a budget
            of one path and a segment, against one pass over a single row of as many tokens. Each side is a
            process of its own; what counts is how far the resident memory rises above model and gradients
            (VmHWM).
time        a smaller trie that fits into one pass, against the same with budgets of a path and a segment (no
            segment runs twice) and of half a path (those at the root do). A round runs all of them one after
            the other; the figures are those of each one's fastest round.
gradients   in float64, on a narrow model, depth-first against one pass over the same trie.

Written to `benchmarks/results/depth_first.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.loads import OBJECTIVE, Shape, make_trees
from benchmarks.train_step import fastest, machine, make_model
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.batch.segments import SEGMENTS_IN_BUDGET, cut_segments
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.model_folder.shapes import SMOLLM2
from trieline.learner.update.train_step import accumulate_gradients

RESULTS = Path(__file__).parent / "results" / "depth_first.json"
MEMORY_BAR, TIME_BAR, GRADIENT_BAR = 1.5, 1.3, 1e-10


def trie_of(unique_tokens: int, path: int) -> Shape:
    """One trunk of half a path, and branches of the other half."""
    half = path // 2
    count = unique_tokens // half - 1
    return Shape(trees=1, trunk=half, sampled_trunk=half // 2, branches=count, branch=half)


def row_of(tokens: int) -> Shape:
    """One sequence, as much of it sampled as of a path of `trie_of`."""
    return Shape(trees=1, trunk=tokens // 4, sampled_trunk=0, branches=1, branch=tokens - tokens // 4)


def budget_of(path: int) -> int:
    """A path and a segment: the segment is a fixed share of the budget."""
    return -(-path * SEGMENTS_IN_BUDGET // (SEGMENTS_IN_BUDGET - 1))


def make_batch(shape: Shape, max_tokens: int) -> Batch:
    return prepare_batch(make_trees(shape), OBJECTIVE, max_tokens=max_tokens)


def with_layers(layers: int) -> LlamaConfig:
    return LlamaConfig(**(SMOLLM2.to_diff_dict() | {"num_hidden_layers": layers}))


def compute_gradient(model: TreeModel, batch: Batch) -> Callable[[], None]:
    def run() -> None:
        # Gradients stay the same memory, as in training.
        model.zero_grad(set_to_none=False)
        accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)

    return run


def rise_of_memory(options: argparse.Namespace) -> None:
    """One side of the comparison of memory, in its own process: prints bytes and seconds."""
    model = make_model(with_layers(options.layers), getattr(torch, options.dtype))
    shape = trie_of(options.unique_tokens, options.path) if options.side == "trie" else row_of(options.budget)
    batch = make_batch(shape, options.budget)
    warm_up = make_batch(row_of(64), 64)
    accumulate_gradients(model, warm_up, OBJECTIVE, policy_version=0)
    # The high-water mark of the resident memory begins anew here.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    start = time.perf_counter()
    accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)
    seconds = time.perf_counter() - start
    print(json.dumps({"bytes": resident_peak() - before, "seconds": seconds}))


def resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def compare_memory(options: argparse.Namespace) -> dict[str, Any]:
    budget = budget_of(options.path)
    sides = {}
    for side in ("trie", "row"):
        command = [sys.executable, "-m", "benchmarks.depth_first", "--side", side, "--budget", str(budget)]
        for name in ("layers", "unique_tokens", "path", "dtype", "threads"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
        sides[side] = json.loads(done.stdout.splitlines()[-1])
    result = {
        "unique_tokens": options.unique_tokens,
        "path": options.path,
        "budget": budget,
        "depth_first_mb": sides["trie"]["bytes"] / 1e6,
        "row_mb": sides["row"]["bytes"] / 1e6,
        "ratio": sides["trie"]["bytes"] / sides["row"]["bytes"],
        "depth_first_seconds": sides["trie"]["seconds"],
    }
    print(
        f"memory     N {options.unique_tokens}, path {options.path}: depth-first "
        f"{result['depth_first_mb']:.0f} MB, one row of {budget} tokens {result['row_mb']:.0f} MB: "
        f"{result['ratio']:.2f} (bar {MEMORY_BAR})"
    )
    return result


def compare_time(options: argparse.Namespace) -> list[dict[str, Any]]:
    model = make_model(with_layers(options.layers), getattr(torch, options.dtype))
    path = options.time_tokens // 4
    shape = trie_of(options.time_tokens, path)
    budgets = {"path and segment": budget_of(path), "half a path": path // 2}
    batches = [make_batch(shape, options.time_tokens), *(make_batch(shape, b) for b in budgets.values())]
    seconds = fastest([compute_gradient(model, batch) for batch in batches], options.rounds)
    rows = []
    for (name, budget), taken in zip(budgets.items(), seconds[1:], strict=True):
        segments = cut_segments(batches[0].packs[0].trie, max_tokens=budget)
        again = sum(len(s.tokens) for s in segments if not s.keeps_graph)
        rows.append(
            {
                "budget": budget,
                "unique_tokens": options.time_tokens,
                "path": path,
                "segments": len(segments),
                "tokens_run_twice": again,
                "one_pass_seconds": seconds[0],
                "depth_first_seconds": taken,
                "ratio": taken / seconds[0],
            }
        )
        print(
            f"time       N {options.time_tokens}, budget {budget} ({name}): {len(segments)} segments, "
            f"{again} tokens run twice; {taken:.2f} s against {seconds[0]:.2f} s: "
            f"{taken / seconds[0]:.2f} (bar {TIME_BAR})"
        )
    return rows


def compare_gradients(options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    narrow: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "vocab_size": SMOLLM2.vocab_size,
    }
    config = LlamaConfig(**narrow, **heads, max_position_embeddings=8192, tie_word_embeddings=True)
    hf_model: Any = LlamaForCausalLM(config)
    model = TreeModel(hf_model.double())
    gradients = []
    for budget in (options.unique_tokens, budget_of(options.path)):
        model.zero_grad(set_to_none=True)
        batch = make_batch(trie_of(options.unique_tokens, options.path), budget)
        accumulate_gradients(model, batch, OBJECTIVE, policy_version=0)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    errors = {n: float((gradients[1][n] - g).norm() / g.norm()) for n, g in gradients[0].items()}
    worst = max(errors.values())
    print(f"gradients  N {options.unique_tokens} in float64: {worst:.1e} apart (bar {GRADIENT_BAR:.0e})")
    return {"unique_tokens": options.unique_tokens, "parameters": len(errors), "largest_difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description="Depth-first execution against one pass")
    parser.add_argument("--layers", type=int, default=SMOLLM2.num_hidden_layers)
    parser.add_argument("--unique-tokens", type=int, default=32_768)
    parser.add_argument("--path", type=int, default=2048)
    parser.add_argument("--time-tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=["trie", "row"], help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        rise_of_memory(options)
        return
    about = machine()
    print(about)
    result = {
        "machine": about,
        "layers": options.layers,
        "dtype": options.dtype,
        "memory": compare_memory(options),
        "time": compare_time(options),
        "gradients": compare_gradients(options),
        "bars": {"memory": MEMORY_BAR, "time": TIME_BAR, "gradients": GRADIENT_BAR},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
