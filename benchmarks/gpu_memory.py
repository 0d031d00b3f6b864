"""Memory of a training step: told beforehand (`trieline check memory`), and on a GPU measured.

    python -m benchmarks.gpu_memory [--models qwen3-0.6b qwen3-1.7b] [--tokens 8192]

A step with random weights on one pack of about so many unique tokens. `allocated` is the most that tensors
took, `reserved` what torch held for them, `used` what the GPU says of everything on it. Without a GPU only
what is told. Written to `memory.json` in `--output`.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.loads import OBJECTIVE
from benchmarks.train_step import machine, make_model, make_optimizer, step, trees_for
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.model_folder.shapes import SHAPES
from trieline.learner.update.memory_need import training_need

GIB = 2**30


def measured(name: str, tokens: int) -> dict[str, Any]:
    model = make_model(SHAPES[name], torch.bfloat16, "cuda")
    optimizer = make_optimizer(model, torch.bfloat16)
    batch = prepare_batch(trees_for("agent", 4, tokens), OBJECTIVE, max_tokens=2 * tokens)
    run = step(model, batch, optimizer)
    run()  # the moments come with the first step
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    free, whole = torch.cuda.mem_get_info()
    return {
        "tokens": max(pack.trie.num_tokens for pack in batch.packs),
        "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        "used_gib": (whole - free) / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["qwen3-0.6b", "qwen3-1.7b"])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        row: dict[str, Any] = {"model": name, "tokens": options.tokens}
        if torch.cuda.is_available():
            try:
                row |= measured(name, options.tokens)
            except torch.OutOfMemoryError as error:
                row["left_out"] = str(error).splitlines()[0]
            gc.collect()
            torch.cuda.empty_cache()
        need = training_need(SHAPES[name], tokens=row["tokens"])
        row |= {"told_tensors_gib": (need.total - need.overhead) / GIB, "told_gib": need.total / GIB}
        print(row, flush=True)
        rows.append(row)
        (options.output / "memory.json").write_text(
            json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
