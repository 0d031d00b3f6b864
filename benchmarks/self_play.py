"""Self-play: what the recipe `selfplay` wins against others than itself, over its steps.

    python -m benchmarks.self_play [--seeds 0 1 2] [--runs FOLDER] [--report]

Each run is `trieline train --config selfplay` as anybody starts it, one at a time. It trains at level 0,
where the policy plays both seats, and is evaluated at the others: held-out games against each opponent, on
either seat, always the same ones. Written run by run to `results/self_play.json`: what is there is not run
again. `--report` makes table and picture from what is there, as every end of the program does.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.learning import keep
from benchmarks.recipes import run_recipe
from benchmarks.train_step import machine
from trieline.config import load_config
from trieline.launcher.evaluation import read_reports
from trieline.launcher.run_folder import RunFolder

RECIPE = "selfplay"
RESULTS = Path(__file__).parent / "results" / "self_play.json"
PICTURE = Path(__file__).parents[1] / "docs" / "results" / "self_play.png"


def train(seed: int, runs: Path) -> dict[str, Any]:
    """One run from the command line. Raises CalledProcessError if it fails."""
    settings = {"run.seed": seed, "run.name": f"{RECIPE}-seed{seed}", "run.folder": runs}
    folder, took = run_recipe(RECIPE, runs, settings)
    return {**outcome(folder), **took}


def outcome(folder: RunFolder) -> dict[str, Any]:
    """What a run folder says: returns by opponent over the steps, games and tokens of training."""
    records = [record for record in folder.read_metrics() if "reward/mean" in record]
    curves: dict[str, list[dict[str, Any]]] = {}
    for step, report in read_reports(folder.evaluations):
        (env,) = report["envs"]
        for opponent, games in by_opponent(env["results"]).items():
            point = {"step": step, "games": len(games), "share": statistics.fmean(games)}
            curves.setdefault(opponent, []).append(point)
    return {
        "opponents": curves,
        "steps": len(records),
        "train_minutes": sum(float(record["time/step"]) for record in records) / 60,
        "tokens": sum(int(record["tokens/sampled"]) for record in records),
    }


def by_opponent(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns of the games of an evaluation; a task's name is `game/opponent/seat/seed`."""
    found: dict[str, list[float]] = {}
    for result in results:
        found.setdefault(result["task_id"].split("/")[-3], []).append(float(result["mean_return"]))
    return found


def table(found: dict[str, Any]) -> str:
    """The first and the last evaluation of each seed and opponent."""
    lines = [
        "| opponent | seed | before | after | games each | steps | minutes | sampled tokens | load |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seed, run in sorted(found["seeds"].items()):
        for opponent, curve in run["opponents"].items():
            before, after = curve[0], curve[-1]
            cells = [
                f"`{opponent}`",
                seed,
                f"{before['share']:.2f}",
                f"{after['share']:.2f}",
                str(after["games"]),
                str(run["steps"]),
                f"{run['command_minutes']:.1f}",
                f"{run['tokens']:,}",
                f"{run['load_average']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Share of what there is to win over steps, a panel for each opponent and a line for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    opponents = list(dict.fromkeys(o for run in found["seeds"].values() for o in run["opponents"]))
    figure, axes = pyplot.subplots(1, len(opponents), figsize=(4 * len(opponents), 3), sharey=True)
    for axis, opponent in zip(axes, opponents, strict=True):
        for seed, run in sorted(found["seeds"].items()):
            curve = run["opponents"][opponent]
            steps, shares = [p["step"] for p in curve], [p["share"] for p in curve]
            axis.plot(steps, shares, marker="o", color=f"C{seed}", label=f"seed {seed}")
        axis.set(title=f"against {opponent}", xlabel="steps of self-play", ylim=(-0.03, 1.03))
        axis.axhline(0.5, color="grey", linewidth=0.8)
        axis.legend(loc="upper left", fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="won (a draw is a half)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are made")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture alone")
    parser.add_argument("--output", type=Path, default=RESULTS, help="another JSON file")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="another PNG file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    found = json.loads(options.output.read_text()) if options.output.exists() else {"seeds": {}}
    for seed in [] if options.report else options.seeds:
        if str(seed) in found["seeds"]:
            continue
        options.runs.mkdir(parents=True, exist_ok=True)
        print(f"seed {seed}", flush=True)
        found["seeds"][str(seed)] = train(seed, options.runs.absolute())
        found["machine"], found["game"] = machine(), load_config([RECIPE]).envs[0].kwargs
        keep(found, options.output)
    print(table(found))
    plot(found, options.picture)


if __name__ == "__main__":
    main()
