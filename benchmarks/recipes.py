"""What the recipes teach: held-out success before, in the middle and after, for seeds, minutes and tokens.

    python -m benchmarks.recipes [--only board walk] [--seeds 0 1 2] [--runs FOLDER] [--report]

Each run is `trieline train --config RECIPE` as anybody starts it, one at a time, straight from the pretrained
weights, evaluated on 60 held-out episodes an environment, sampled as in training, always the same tasks.
Written run by run to `results/recipes.json`: what is there is not run again, so that a stopped program goes
on where it was (`--anew` runs it again). `--report` makes table and picture from what is there, as every
end of the program does. Run folders, with transcripts and `report.md`, stay in `--runs`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.learning import keep
from benchmarks.train_step import machine
from trieline.config import load_config
from trieline.launcher.evaluation import read_reports
from trieline.launcher.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "recipes.json"
PICTURE = Path(__file__).parents[1] / "docs" / "results" / "recipes.png"
RECIPES = ("walk", "games", "board", "reasoning", "tools", "agent")
EPISODES = 60
"""Held-out ones of each environment and evaluation: a standard error of at most 0.065."""
EVALUATIONS = 2
"""After the first one, over the run."""
COLUMNS = 3


def train(recipe: str, seed: int, runs: Path) -> dict[str, Any]:
    """One run from the command line. Raises CalledProcessError if it fails."""
    steps = load_config([recipe]).learner.steps
    settings = {
        "run.seed": seed,
        "run.name": f"{recipe}-seed{seed}",
        "run.folder": runs,
        "evaluation.episodes": EPISODES,
        "evaluation.every": -(-steps // EVALUATIONS),
    }
    folder, took = run_recipe(recipe, runs, settings)
    return {**outcome(folder), **took}


def run_recipe(recipe: str, runs: Path, settings: Mapping[str, Any]) -> tuple[RunFolder, dict[str, float]]:
    """`trieline train` to its end, and what it took. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "trieline", "train", "--config", recipe]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    name = settings["run.name"]
    known = {*runs.glob(f"{name}-*")}
    began, load = time.monotonic(), [os.getloadavg()[0]]
    with (runs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(5)
            load.append(os.getloadavg()[0])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    (folder,) = {*runs.glob(f"{name}-*/")} - known
    minutes = (time.monotonic() - began) / 60
    return RunFolder(folder), {"command_minutes": minutes, "load_average": statistics.fmean(load)}


def outcome(folder: RunFolder) -> dict[str, Any]:
    """What a run folder says: a curve by environment, minutes of its steps, sampled tokens."""
    records = [record for record in folder.read_metrics() if "reward/mean" in record]
    minutes, tokens = [0.0], [0]
    for record in records:
        minutes.append(minutes[-1] + float(record["time/step"]) / 60)
        tokens.append(tokens[-1] + int(record["tokens/sampled"]))
    curves: dict[str, list[dict[str, Any]]] = {}
    for step, report in read_reports(folder.evaluations):
        for env in report["envs"]:
            point = {"step": step, "minutes": minutes[step], "tokens": tokens[step]}
            curves.setdefault(env["env_id"], []).append({**point, "success": env["mean_return"]})
    return {
        "envs": curves,
        "steps": len(records),
        "train_minutes": minutes[-1],
        "tokens": tokens[-1],
        "rewards": [float(record["reward/mean"]) for record in records],
    }


def games_of(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """The runs of each recipe and environment, by seed."""
    games: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for recipe in RECIPES:
        for seed, of in sorted(found["recipes"].get(recipe, {}).items()):
            for env in of["envs"]:
                games.setdefault((recipe, env), {})[seed] = of
    return games


def table(found: dict[str, Any]) -> str:
    """Before and after for each seed, in the order of the seeds."""
    lines = [
        "| environment | recipe | before | after | mean change | minutes | sampled tokens | load |",
        "|---|---|---|---|---:|---|---|---|",
    ]
    for (recipe, env), seeds in games_of(found).items():
        runs = list(seeds.values())
        curves = [of["envs"][env] for of in runs]
        before, after = ([curve[at]["success"] for curve in curves] for at in (0, -1))
        cells = [
            env.removeprefix("trieline/").removesuffix("-v0"),
            f"`{recipe}`",
            ", ".join(f"{value:.2f}" for value in before),
            ", ".join(f"{value:.2f}" for value in after),
            f"{statistics.fmean(after) - statistics.fmean(before):+.2f}",
            ", ".join(f"{of['command_minutes']:.1f}" for of in runs),
            ", ".join(f"{of['tokens']:,}" for of in runs),
            ", ".join(f"{of['load_average']:.0f}" for of in runs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Held-out success over minutes of training, a panel for each environment and a line for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    games = games_of(found)
    rows = -(-len(games) // COLUMNS)
    size = (4 * COLUMNS, 3 * rows)
    figure, grid = pyplot.subplots(rows, COLUMNS, figsize=size, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for axis, ((recipe, env), runs) in zip(axes, games.items(), strict=False):
        for seed, of in runs.items():
            curve = of["envs"][env]
            minutes, success = [p["minutes"] for p in curve], [p["success"] for p in curve]
            axis.plot(minutes, success, marker="o", color=f"C{seed}", label=f"seed {seed}")
        axis.legend(loc="upper left", fontsize=7)
        name = env.removeprefix("trieline/").removesuffix("-v0")
        axis.set(title=f"{name} ({recipe})", xlabel="minutes of training", ylim=(-0.03, 1.03))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    for axis in axes[len(games) :]:
        axis.set_visible(False)
    for row in grid:
        row[0].set(ylabel="held-out success")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are made")
    parser.add_argument("--anew", action="store_true", help="run again what is there")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture alone")
    parser.add_argument("--output", type=Path, default=RESULTS, help="another JSON file")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="another PNG file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    found = json.loads(options.output.read_text()) if options.output.exists() else {"recipes": {}}
    asked = [] if options.report else [(r, s) for s in options.seeds for r in options.only]
    for recipe, seed in asked:
        seeds = found["recipes"].setdefault(recipe, {})
        if str(seed) in seeds and not options.anew:
            continue
        options.runs.mkdir(parents=True, exist_ok=True)
        print(f"{recipe}, seed {seed}", flush=True)
        seeds[str(seed)] = train(recipe, seed, options.runs.absolute())
        found["machine"], found["episodes"] = machine(), EPISODES
        keep(found, options.output)
    print(table(found))
    plot(found, options.picture)


if __name__ == "__main__":
    main()
