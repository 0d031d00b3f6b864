"""Everything that only a GPU can tell, by one command on a bare machine, most worth first.

    make gpu
    python -m benchmarks.gpu [--parts tests attention ...] [--output DIR] [--limit 480]

Needs no install and no network: torch with CUDA, Triton, transformers, pytest, what the learner imports, and
this folder. Each part is a process of its own with a limit in seconds, its log beside its figures in
`--output` (`benchmarks/results/gpu`). What a part lacks, its log names; what became of each is in `gpu.json`,
written as they end. Without a GPU the same parts run with the smallest sizes, those that can, and their
figures go to a temporary folder unless told otherwise: that shows that the command works, and nothing else.

    tests       the GPU kernels against the dense formulas in float64, forward and all gradients
    exact       a training step of SmolLM2's shape in float32: gradients of tries and of separate rows
    attention   tree attention beside FlexAttention, padded sequences and a dense mask
    head        log-probabilities and entropies beside plain and chunked logits and Liger-Kernel
    step-SIZE   whole training steps at the shape of Qwen3's 0.6b, 1.7b, 4b: tries, merged rows, and memory
    sampling    the policy server's engine: tokens a second, decoding steps as CUDA graphs and launched
    memory      the most that a step takes, beside what is told of it without a GPU
    tiles       the tiles of the attention kernels
    learning    `trieline train --config tiny`, the learner on the GPU
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_step import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
CPU_PATIENCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A command of Python, with what it is given on a GPU and on a CPU; None: it does not run there."""

    name: str
    command: tuple[str, ...]
    gpu: tuple[str, ...] | None
    cpu: tuple[str, ...] | None
    limit: float
    """Seconds on a GPU; a CPU, which may be shared, gets `CPU_PATIENCE` times as many."""


def step(size: str, *options: str, limit: float) -> Part:
    return Part(
        name=f"step-{size}",
        command=("-m", "benchmarks.train_step", "--output", "{output}", "--model", f"qwen3-{size}"),
        gpu=("--dtypes", "bfloat16", "--loads", "agent", "--turn-ratios", "--rounds", "3", *options),
        cpu=None,
        limit=limit,
    )


PARTS = (
    Part(
        name="tests",
        command=("-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider"),
        gpu=("tests/kernels/gpu", "tests/learner/policy_server/gpu"),
        cpu=("tests/kernels/test_preorder.py",),
        limit=120,
    ),
    Part(
        name="exact",
        command=("-m", "benchmarks.train_step", "--output", "{output}", "--loads", "agent", "--turn-ratios"),
        gpu=("--dtypes", "float32", "--ratios", "4", "--unique-tokens", "4096", "--max-tokens", "8192"),
        cpu=("--dtypes", "float32", "--ratios", "2", "--unique-tokens", "128", "--rounds", "1"),
        limit=60,
    ),
    Part(
        name="attention",
        command=("benchmarks/tree_attention.py", "--output", "{output}", "--loads", "agent"),
        gpu=("--tokens", "16384", "65536", "--ratios", "1", "4"),
        cpu=("--tokens", "128", "--ratios", "2", "--rounds", "1", "--dtypes", "float32"),
        limit=90,
    ),
    Part(
        name="head",
        command=("benchmarks/token_logprob.py", "--output", "{output}"),
        gpu=(),
        cpu=("--rows", "16", "--hidden", "32", "--vocab", "500", "--rounds", "1"),
        limit=60,
    ),
    step("0.6b", "--ratios", "1", "4", "--unique-tokens", "16384", "--max-tokens", "32768", limit=60),
    step("4b", "--ratios", "4", "--unique-tokens", "8192", "--max-tokens", "16384", "--no-compare", limit=75),
    Part(
        name="sampling",
        command=("-m", "benchmarks.gpu_sampling", "--output", "{output}"),
        gpu=(),
        cpu=("--model", "smallest", "--rows", "2", "--prompt", "8", "--new", "2", "--rounds", "1"),
        limit=60,
    ),
    Part(
        name="memory",
        command=("-m", "benchmarks.gpu_memory", "--output", "{output}"),
        gpu=(),
        cpu=("--models", "smallest", "--tokens", "64"),
        limit=60,
    ),
    step("1.7b", "--ratios", "4", "--unique-tokens", "16384", "--max-tokens", "32768", limit=60),
    Part(
        name="tiles",
        command=("benchmarks/kernel_tiles.py", "--output", "{output}"),
        gpu=(),
        cpu=None,
        limit=150,
    ),
    Part(
        name="learning",
        command=("-c", "from trieline.command_line import main; main()", "train", "--config", "tiny"),
        gpu=("--set", "learner.steps=40", "--set", "run.dir='{output}/run'"),
        cpu=None,
        limit=120,
    ),
)


def workers() -> tuple[str, ...]:
    """Tests compile more than they compute."""
    if importlib.util.find_spec("xdist") is None:
        return ()
    return ("-n", str(min(12, os.cpu_count() or 1)))


def run(part: Part, output: Path, limit: float, *, on_gpu: bool) -> dict[str, Any]:
    options = part.gpu if on_gpu else part.cpu
    if options is None:
        return {"part": part.name, "left_out": "needs a GPU"}
    if limit <= 0:
        return {"part": part.name, "left_out": "no time was left"}
    words = [*part.command, *options, *(workers() if part.name == "tests" and on_gpu else ())]
    command = [sys.executable, *(word.replace("{output}", str(output)) for word in words)]
    log = output / f"{part.name}.log"
    start = time.monotonic()
    with log.open("w") as file:
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            ended = None
    result = {"part": part.name, "seconds": round(time.monotonic() - start, 1), "exit_status": ended}
    if ended is None:
        result["left_out"] = f"it took more than {limit:.0f} s"
    return result


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", default=names, choices=names)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds of all parts together")
    options = parser.parse_args()
    output: Path = options.output or (RESULTS if on_gpu else Path(tempfile.mkdtemp(prefix="trieline-gpu-")))
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    about = machine()
    print(about, f"figures and logs in {output}", sep="\n", flush=True)
    end = time.monotonic() + options.limit
    rows: list[dict[str, Any]] = []
    for part in (part for part in PARTS if part.name in options.parts):
        most = part.limit * (1 if on_gpu else CPU_PATIENCE)
        row = run(part, output, min(most, end - time.monotonic()), on_gpu=on_gpu)
        rows.append(row)
        (output / "gpu.json").write_text(json.dumps({"machine": about, "parts": rows}, indent=1) + "\n")
        outcome = row.get("left_out") or f"exit status {row['exit_status']}"
        print(f"--- {part.name}: {outcome}, {row.get('seconds', 0)} s", flush=True)
        log = output / f"{part.name}.log"
        if "seconds" in row and log.exists():
            print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    sys.exit(any(row.get("exit_status", 0) != 0 for row in rows))


if __name__ == "__main__":
    main()
