"""How learner and policy server share the cores of one machine: in turns, a half each, or freely.

    python benchmarks/role_schedule.py [--config smollm2] [--steps 8] [--rounds 1]

The same recipe, seed and curriculum through the real processes (`trieline train`), once for each:

* `turns`: `max_staleness = 0`. The learner waits for a step's trees, and no tree is begun before its weights
  are served: each side has all cores while the other waits.
* `split`: `max_staleness = 1`, and each side computes on half of the cores.
* `overlap`: `max_staleness = 1`, the learner computes on all cores and the server on half of them.
* `free`: `max_staleness = 1`, and each side computes on all cores, whatever the other does.

The figures are sampled tokens trained on per second of the whole loop, and seconds a step, without the first
two steps. Written to `benchmarks/results/role_schedule.json`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "role_schedule.json"
WARM_UP_STEPS = 2


def schedules(cores: int) -> dict[str, dict[str, int]]:
    """Settings by schedule."""
    half = max(1, cores // 2)
    return {
        "turns": {"learner.max_staleness": 0, "learner.threads": cores, "policy_server.threads": cores},
        "split": {"learner.max_staleness": 1, "learner.threads": half, "policy_server.threads": cores - half},
        "overlap": {
            "learner.max_staleness": 1,
            "learner.threads": cores,
            "policy_server.threads": cores - half,
        },
        "free": {"learner.max_staleness": 1, "learner.threads": cores, "policy_server.threads": cores},
    }


def run(config: str, settings: dict[str, Any], steps: int) -> dict[str, float]:
    """One run of `steps` steps, and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings | {"learner.steps": steps, "evaluation.episodes": 1, "run.folder": folder}
        flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "trieline", "train", "--config", config, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        (metrics,) = Path(folder).glob("*/metrics.jsonl")
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    counted = [record for record in records if "time/step" in record][WARM_UP_STEPS:]
    seconds = sum(record["time/step"] for record in counted)
    return {
        "tokens_per_s": round(sum(record["tokens/sampled"] for record in counted) / seconds, 1),
        "seconds_a_step": round(seconds / len(counted), 2),
        "mean_staleness": round(
            sum(record["off_policy/staleness/mean"] for record in counted) / len(counted), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="smollm2", help="a recipe or a config file")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--schedules", nargs="+", default=["turns", "split", "overlap", "free"])
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {cores} cores, torch {torch.__version__}",
        "config": options.config,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    print(results["machine"])
    for _ in range(options.rounds):
        for name in options.schedules:
            figures = run(options.config, schedules(cores)[name], options.steps)
            best = results.get(name)
            if best is None or figures["tokens_per_s"] > best["tokens_per_s"]:
                results[name] = figures
            print(f"{name:8}", figures, flush=True)
    ranked = sorted(options.schedules, key=lambda name: results[name]["tokens_per_s"], reverse=True)
    results["ratio"] = round(results[ranked[0]]["tokens_per_s"] / results[ranked[1]]["tokens_per_s"], 2)
    print(f"fastest: {ranked[0]}, {results['ratio']} times as fast as {ranked[1]}")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
