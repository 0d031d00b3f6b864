"""The time of a training step by two ranks beside one, and what each of them needs.

    python -m benchmarks.ranks [--model builtin:smollm2-135m-instruct] [--ranks 2] [--rounds 4]

The same step, float32, on the same trees: one process on one thread, one process on as many threads as there
are ranks, and ranks of one thread each, their weights gathered layer by layer or once a step
(`learner.gather`). Each in processes of its own, through gloo on this machine. `seconds` is the fastest of
the rounds, as other programs can only slow one down; `cpu_seconds` the least that the first process computed
in one, which shows how much work the sharing adds; `peak_gib` the most memory of the largest process.

Two ranks on the cores of one machine share its memory and caches, and talk through its loopback: the figures
say what sharing costs, not what more machines gain. NCCL and GPUs: never run. Written to `ranks.json` in
`--output`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.loads import OBJECTIVE, make_trees, shape_for
from benchmarks.train_step import machine
from trieline.common.folders import write_whole
from trieline.learner.config import LearnerConfig
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.ranked_learner import RankedLearner
from trieline.learner.ranks.orders import Setup
from trieline.learner.ranks.start import Crew
from trieline.learner.update.learner import Learner

RESULTS = Path(__file__).parent / "results"
RATIO = 4
"""L/N of the trees."""


def config_of(options: argparse.Namespace) -> LearnerConfig:
    return LearnerConfig(
        objective=OBJECTIVE,
        ranks=options.one_of,
        gather=options.gather,
        threads=options.threads,
        max_tokens=options.max_tokens,
        give_way=False,
        device="cpu",
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One arrangement, in this process and the ranks that it starts."""
    config = config_of(options)
    torch.set_num_threads(options.threads)
    folder = prepare_model(options.model)
    learner: Learner
    if options.one_of == 1:
        learner = Learner(config, folder, dtype=torch.float32)
    else:
        setup = Setup(config=config, model=options.model, dtype="float32", seed=0)
        learner = RankedLearner.of_crew(Crew(options.one_of, torch.device("cpu")), setup, folder)
    trees = [
        tree for seed in range(2) for tree in make_trees(shape_for(RATIO, options.tokens // 2, "forks"), seed)
    ]
    rounds = []
    try:
        for number in range(options.rounds + 1):
            began, cpu = time.perf_counter(), time.process_time()
            report = learner.step(trees, lr=1e-9)
            if number:  # the first one warms up
                rounds.append((time.perf_counter() - began, time.process_time() - cpu))
    finally:
        learner.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "ranks": options.one_of,
        "threads": options.threads,
        "gather": options.gather if options.one_of > 1 else None,
        "seconds": min(seconds for seconds, _ in rounds),
        "cpu_seconds": min(cpu for _, cpu in rounds),
        "peak_gib": max(own, children) / 2**20,
        "trie_tokens": report.metrics["batch/trie_tokens"],
        "packs": report.metrics["batch/packs"],
        "loss": report.metrics["loss/total"],
        "grad_norm": report.metrics["optim/grad_norm"],
        "load_average": os.getloadavg()[0],
    }


def in_own_process(options: argparse.Namespace, ranks: int, threads: int, gather: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.ranks", "--one-of", str(ranks), "--threads", str(threads)]
    for name in ("model", "tokens", "max_tokens", "rounds"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run([*command, "--gather", gather], stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one-of", type=int, help="measure one arrangement: processes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gather", default="layer")
    options = parser.parse_args()
    if options.one_of is not None:
        print(json.dumps(measure(options)))
        return
    arrangements = [(1, 1, "layer"), (1, options.ranks, "layer")]
    arrangements += [(options.ranks, 1, gather) for gather in ("layer", "step")]
    rows = []
    for ranks, threads, gather in arrangements:
        row = in_own_process(options, ranks, threads, gather)
        print(json.dumps(row))
        rows.append(row)
    kept = {"machine": machine(), "model": options.model, "rows": rows}
    write_whole(options.output / "ranks.json", json.dumps(kept, indent=1).encode())


if __name__ == "__main__":
    main()
