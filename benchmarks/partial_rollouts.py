"""New weights in the middle of replies, after replies, or after whole rollouts: the same run with each.

    python -m benchmarks.partial_rollouts [--minutes 2.5] [--rounds 2] [--sides in_flight waiting]

SmolLM2-135M learns to count (`counting_game`): two turns, whose replies are of 6 to 96 tokens and stay long
however well it does. It does so through the real processes (`trieline train`), in a round once for each side:

* `in_flight`: new weights come between two tokens, and replies go on with them;
* `waiting`: `policy_server.in_flight_updates = false`, new weights wait for the replies that run;
* `turns`: `learner.max_staleness = 0`, the learner waits for all rollouts of a step, on all cores, and no
  other begins before its weights are served. The other two have `max_staleness = 1` and half of the cores
  for each program.

Every run trains for equally long. Given are medians and ranges over the rounds, without the first two steps,
and the mean reward of all episodes of the last third of the time. Sides change places from round to round.
Written to `benchmarks/results/partial_rollouts.json`, with the load average during each run.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import keep
from benchmarks.recipes import run_recipe
from benchmarks.train_step import machine
from trieline.launcher.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "partial_rollouts.json"
WARM_UP_STEPS = 2
CONFIG = """
[model]
path = "builtin:smollm2-135m-instruct"

[[envs]]
id = "benchmarks.counting_game:benchmarks/Counting-v0"
episode = { max_turns = 2, max_tokens = 96 }

[learner]
trees_per_step = 2
group_size = 8
weights_timeout_s = 150
objective = { advantage = "vtrace", scale_rewards = "none", loss = "vtrace_pg" }
optimizer = { lr = 3e-5 }
"""
SIDES: dict[str, dict[str, Any]] = {
    "in_flight": {"learner.max_staleness": 1},
    "waiting": {"learner.max_staleness": 1, "policy_server.in_flight_updates": "false"},
    "turns": {"learner.max_staleness": 0},
}
MEANS = {
    "seconds_a_step": "time/step",
    "wait_for_trees_s": "time/wait_for_batch",
    "wait_for_weights_s": "time/sync_weights",
    "token_staleness": "off_policy/token_staleness/mean",
    "tree_staleness": "off_policy/staleness/mean",
    "mixed_replies": "off_policy/mixed_replies",
    "mixed_sequences": "off_policy/mixed_sequences",
    "off_policy_kl": "off_policy/kl/mean",
    "ratios_clipped": "vtrace/rho_clipped_fraction",
    "mismatch_kl": "mismatch_kl/mean",
    "tokens_a_rollout": "completions/mean_length",
}
"""Means over the counted steps, by the metric of a step that they are of."""
SHOWN = (
    "tokens_per_s",
    "seconds_a_step",
    "wait_for_weights_s",
    "token_staleness",
    "mixed_replies",
    "mixed_sequences",
    "off_policy_kl",
    "reward",
)


def run(side: str, number: int, minutes: float, folder: Path) -> dict[str, Any]:
    """One run, and its figures. Raises CalledProcessError if it fails."""
    config = folder / "partial_rollouts.toml"
    config.write_text(CONFIG)
    settings = {
        **SIDES[side],
        "run.name": f"{side}{number}",
        "run.folder": folder,
        "run.seed": number,
        "learner.steps": 100_000,
        "learner.max_minutes": minutes,
        "learner.checkpoint_every": 100_000,
        "evaluation.episodes": 0,
    }
    made, took = run_recipe(str(config), folder, settings)
    return {**figures(made, minutes), **took}


def figures(folder: RunFolder, minutes: float) -> dict[str, Any]:
    """What a run folder says of its steps."""
    steps = [record for record in folder.read_metrics() if "reward/mean" in record]
    counted = steps[WARM_UP_STEPS:]
    if not counted:
        sys.exit(f"expected more than {WARM_UP_STEPS} steps in {minutes:g} minutes, got {len(steps)}")
    seconds = sum(float(record["time/step"]) for record in counted)
    tokens = sum(float(record["tokens/sampled"]) for record in counted)
    told = {
        name: statistics.fmean(float(record[metric]) for record in counted if metric in record)
        for name, metric in MEANS.items()
        if any(metric in record for record in counted)
    }
    ended, late = 0.0, []
    for record in steps:
        ended += float(record["time/step"])
        if ended > 60 * minutes * 2 / 3:
            late.append(float(record["reward/mean"]))
    return {
        "steps": len(steps),
        "tokens": sum(int(record["tokens/sampled"]) for record in steps),
        "tokens_per_s": tokens / seconds,
        **told,
        "oldest_token": max(float(record["off_policy/staleness/max"]) for record in counted),
        "reward": statistics.fmean(late),
    }


def summary(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Medians by side, and how much faster than waiting new weights in flight are, round by round."""
    medians = {
        side: {name: statistics.median(one[name] for one in of if name in one) for name in of[0]}
        for side, of in runs.items()
        if of
    }
    ratios = {
        f"{side}/waiting": [
            one["tokens_per_s"] / other["tokens_per_s"]
            for one, other in zip(runs[side], runs["waiting"], strict=False)
        ]
        for side in runs
        if side != "waiting" and "waiting" in runs
    }
    return {"medians": medians, "ratios": ratios}


def table(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Median (and range) of each figure by side."""
    lines = [f"| | {' | '.join(runs)} |", f"|---|{'---:|' * len(runs)}"]
    for name in SHOWN:
        cells = []
        for of in runs.values():
            values = [one[name] for one in of if name in one]
            cells.append(
                f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else ""
            )
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.5, help="of training, for each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["in_flight", "waiting"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="another JSON file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    found: dict[str, Any] = {"machine": machine(), "minutes": options.minutes}
    print(json.dumps(found["machine"]))
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for number in range(options.rounds):
        for side in options.sides if number % 2 == 0 else options.sides[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                runs[side].append(run(side, number, options.minutes, Path(folder)))
            print(side, json.dumps({name: round(v, 4) for name, v in runs[side][-1].items()}), flush=True)
        keep({**found, "rounds": number + 1, "runs": runs, **summary(runs)}, options.output)
    print(table(runs))
    for name, ratios in summary(runs)["ratios"].items():
        print(f"tokens/s, {name}:", ", ".join(f"{ratio:.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
