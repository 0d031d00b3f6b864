"""Everything that only a GPU can tell, by one command on a bare machine, most worth first.

    make gpu
    python -m benchmarks.gpu [--parts tests attention ...] [--output DIR] [--limit 480]

Needs no install and no network: torch with CUDA, Triton, transformers, pytest, what the learner imports, and
this folder. Each part is a process of its own with a limit, its log beside its figures in `--output`
(`benchmarks/results/gpu`), which it writes as it goes. What a part lacks, its log names; what became of each
is in `gpu.json`, written as they end. Without a GPU the same parts run with the smallest sizes, Triton
interpreted, and their figures go to a temporary folder unless told otherwise: that shows that the command
works, and nothing else.

    tests       the GPU kernels and engine against the dense formulas in float64, forward and all gradients
    exact       a training step of SmolLM2's shape in float32: gradients of tries and of separate rows
    attention   tree attention beside FlexAttention, FlashAttention, cuDNN, TRL's gather, and a dense mask
    head        log-probabilities and entropies beside plain, gathered and chunked logits, Liger, TRL, torch
    step-SIZE   whole training steps at the shape of Qwen3's 0.6b, 1.7b, 4b: tries, merged rows, and memory
    sampling    the policy server's engine: tokens a second, decoding steps as CUDA graphs and launched
    learning    `trieline train --config tiny`, learner and policy server on the GPU
    memory      the most that a step takes, beside what is told of it without a GPU
    tiles       the tiles of the attention kernels

The limits of all parts add up to what there is (`LIMIT`), so that each gets its turn; what one leaves goes to
those after it. Of each limit some 15 s are the start: importing torch and transformers, CUDA's context, and
what Triton compiles; the tests come first and leave in Triton's cache what most others need.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
LIMIT = 480.0
"""Seconds of everything together on a GPU."""
START = 10.0
"""Seconds before the first part, in which torch looks for the GPU."""
GRACE = 2.0
"""Seconds of a limit that a part has for leaving when it is told to."""
CPU_PATIENCE = 4
"""A CPU, which may be shared, gets so many times as long."""
TINY_STEP = ("--model", "smallest", "--dtypes", "float32", "--ratios", "2", "--unique-tokens", "128")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A command of Python, with what it is given on a GPU and on a CPU.

    In its words `{output}` stands for the folder of the figures, `{seconds}` for how long it may take.
    """

    name: str
    command: tuple[str, ...]
    gpu: tuple[str, ...]
    cpu: tuple[str, ...]
    limit: float
    """Seconds on a GPU that it is sure of."""


def step(size: str, *options: str, limit: float) -> Part:
    return Part(
        name=f"step-{size}",
        command=("-m", "benchmarks.train_step", "--output", "{output}", "--loads", "agent", "--turn-ratios"),
        gpu=("--model", f"qwen3-{size}", "--dtypes", "bfloat16", *options),
        cpu=(*TINY_STEP, "--rounds", "1"),
        limit=limit,
    )


PARTS = (
    Part(
        name="tests",
        command=("-m", "benchmarks.gpu_tests", "--output", "{output}"),
        gpu=("tests/kernels/gpu", "tests/learner/policy_server/gpu"),
        cpu=("tests/kernels/gpu/test_tree_blocks.py", "--jobs", "1"),
        limit=75,
    ),
    Part(
        name="exact",
        command=("-m", "benchmarks.train_step", "--output", "{output}", "--loads", "agent", "--turn-ratios"),
        gpu=("--dtypes", "float32", "--ratios", "4", "--unique-tokens", "4096", "--max-tokens", "8192"),
        cpu=(*TINY_STEP, "--rounds", "1"),
        limit=30,
    ),
    Part(
        name="attention",
        command=("-m", "benchmarks.tree_attention", "--output", "{output}", "--loads", "agent"),
        gpu=("--tokens", "65536", "16384", "--ratios", "4", "1", "--rounds", "5"),
        cpu=("--tokens", "128", "--ratios", "2", "--rounds", "1", "--dtypes", "float32"),
        limit=80,
    ),
    Part(
        name="head",
        command=("-m", "benchmarks.token_logprob", "--output", "{output}"),
        gpu=(),
        cpu=("--rows", "16", "--hidden", "32", "--vocab", "500", "--rounds", "1"),
        limit=35,
    ),
    step("0.6b", "--ratios", "4", "1", "--unique-tokens", "16384", "--max-tokens", "32768", limit=45),
    step("4b", "--ratios", "4", "--unique-tokens", "8192", "--max-tokens", "16384", "--no-compare", limit=45),
    Part(
        name="sampling",
        command=("-m", "benchmarks.gpu_sampling", "--output", "{output}"),
        gpu=(),
        cpu=("--model", "smallest", "--rows", "2", "--prompt", "8", "--new", "2", "--rounds", "1"),
        limit=40,
    ),
    Part(
        name="learning",
        command=(
            *("-m", "trieline", "train", "--config", "tiny", "--set", "run.folder='{output}/runs'"),
            *("--set", "learner.warm_start.evaluate_every=10"),
        ),
        gpu=(
            *("--set", "learner.steps=20", "--set", "learner.warm_start.target=0.2"),
            *("--set", "evaluation.episodes=20"),
        ),
        cpu=(
            *(
                "--set",
                "learner.steps=2",
                "--set",
                "learner.trees_per_step=4",
                "--set",
                "evaluation.episodes=4",
            ),
            *("--set", "learner.fill_batches=8.0", "--set", "learner.warm_start.target=0.02"),
        ),
        limit=45,
    ),
    Part(
        name="memory",
        command=("-m", "benchmarks.gpu_memory", "--output", "{output}"),
        gpu=(),
        cpu=("--models", "smallest", "--tokens", "64"),
        limit=25,
    ),
    step("1.7b", "--ratios", "4", "--unique-tokens", "8192", "--max-tokens", "16384", limit=25),
    Part(
        name="tiles",
        command=("-m", "benchmarks.kernel_tiles", "--output", "{output}", "--limit", "{seconds}"),
        gpu=("--head-dims", "128"),
        cpu=(
            *("--tokens", "64", "--head-dims", "32", "--heads", "2", "--key-heads", "1", "--jobs", "1"),
            *("--most-tiles", "1", "--repetitions", "1", "--dtype", "float32"),
        ),
        limit=25,
    ),
)


def latest_ends(parts: Sequence[Part], end: float, patience: float) -> list[float]:
    """By when each must have ended so that those after it have their time before `end`."""
    after = [sum(part.limit for part in parts[place + 1 :]) for place in range(len(parts))]
    return [end - patience * seconds for seconds in after]


def machine() -> dict[str, Any]:
    """Asked for by a process of its own: this one would hold memory of the GPU for as long as it runs."""
    code = "import json; from benchmarks.tree_attention import machine; print(json.dumps(machine()))"
    command, environment = [sys.executable, "-c", code], environment_of_parts()
    asked = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    return found


def environment_of_parts() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def run(part: Part, output: Path, seconds: float, *, on_gpu: bool) -> dict[str, Any]:
    if seconds <= 0:
        return {"part": part.name, "left_out": "no time was left"}
    words = [*part.command, *(part.gpu if on_gpu else part.cpu)]
    for name, value in {"{output}": str(output), "{seconds}": f"{0.8 * seconds:.0f}"}.items():
        words = [word.replace(name, value) for word in words]
    environment = environment_of_parts()
    if not on_gpu:
        environment["TRITON_INTERPRET"] = "1"
    began = time.monotonic()
    status = run_within(words, output / f"{part.name}.log", seconds, environment)
    result = {"part": part.name, "seconds": round(time.monotonic() - began, 1), "exit_status": status}
    if status is None:
        result["left_out"] = f"it took more than {seconds:.0f} s"
    return result


def run_within(words: list[str], log: Path, seconds: float, environment: dict[str, str]) -> int | None:
    """The exit status of Python with these words; None: it and what it started were ended after `seconds`."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(timeout=max(0.0, seconds - GRACE))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        return None
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What a part leaves behind would hold the GPU's memory."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tell(row: dict[str, Any], log: Path) -> None:
    outcome = row.get("left_out") or f"exit status {row['exit_status']}"
    print(f"--- {row['part']}: {outcome}, {row.get('seconds', 0)} s", flush=True)
    if "seconds" in row and log.exists():
        print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", default=names, choices=names)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--limit", type=float, help=f"seconds of all parts together: {LIMIT:.0f} on a GPU")
    options = parser.parse_args()
    about = machine()
    on_gpu = about["gpu"] is not None
    patience = 1 if on_gpu else CPU_PATIENCE
    output: Path = options.output or (RESULTS if on_gpu else Path(tempfile.mkdtemp(prefix="trieline-gpu-")))
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    print(about, f"figures and logs in {output}", sep="\n", flush=True)
    chosen = [part for part in PARTS if part.name in options.parts]
    end = began + (options.limit or LIMIT * patience)
    rows: list[dict[str, Any]] = []
    for part, latest in zip(chosen, latest_ends(chosen, end, patience), strict=True):
        row = run(part, output, latest - time.monotonic(), on_gpu=on_gpu)
        rows.append(row)
        (output / "gpu.json").write_text(json.dumps({"machine": about, "parts": rows}, indent=1) + "\n")
        tell(row, output / f"{part.name}.log")
    print(f"{time.monotonic() - began:.0f} s in all")
    sys.exit(any(row.get("exit_status", 1) != 0 for row in rows))


if __name__ == "__main__":
    main()
