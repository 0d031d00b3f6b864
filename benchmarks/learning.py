"""What corrections for lag, entropy-aware scaling, advantages and forks buy: success at equal sampled tokens.

    python -m benchmarks.learning [--recipe tiny | smollm2] [--seeds 0 1 2] [--only STUDY_OR_SETTING ...]
        [--jobs 2] [--dry-run | --report]

Learner, sampling engine and episodes are those of `trieline train`, in one process, so that lag is exact: at
step t the trees were sampled by the weights of step t - lag. A run ends when `--tokens` tokens have been
sampled. Held-out success is measured at the end and at each quarter before it (100 episodes an environment,
sampled at temperature 1); the table has the end and the mean over the run, each over seeds with its range.

Recipe `tiny`: FrozenLake and GuessNumber, from one supervised warm start that all runs share. Studies:

lag      `group` advantages with no weight (`pg`), truncated (`tis`) and masked (`icepop`) ones, and
         V-trace (advantage `vtrace`, loss `vtrace_pg`), at lag 0, 4 and 16
scaling  advantages scaled by entropy: off, sequence, token; at lag 0
forks    8 rollouts of a task, against 4 and 4 forks at random turns or at those of the highest entropy, with
         `tree` advantages; at lag 0

Recipe `smollm2`: Arithmetic, PythonFunction (with replies of up to 64 tokens) and GuessNumber, from the
pretrained weights; lag 0. Studies:

scaling     as above; `off` is the recipe as it was: `group` advantages of 8 rollouts, `ppo_clip`
advantages  `tree` and V-trace instead of `group`; and all three with 4 rollouts and 4 forks at the turns of
            the highest entropy. The first two environments have one turn, so there is no later one to fork:
            the actor plays 4 more rollouts of the task there, and only GuessNumber differs

A run computes on one thread, `--jobs` of them at once. Written run by run to `learning.json` or
`learning_smollm2.json` in `benchmarks/results`: what is there is not run again (`--anew` does), so that a
stopped program goes on where it was. `--dry-run` lists what is to be run and its minutes; `--report` makes
the table and the picture beside the JSON from what is there, as every end of the program does.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.learning_settings import RECIPES, Recipe, Setting
from benchmarks.local_loop import Loop, run
from benchmarks.train_step import machine
from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.env_session import TaskChoice
from trieline.config import Config, load_config
from trieline.learner.allocator import keep_freed_memory
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.warm_start import warm_start
from trieline.wire.tree import TrajectoryTree


def config_of(options: argparse.Namespace, settings: Sequence[str] = ()) -> Config:
    """The recipe with a setting of a study."""
    episodes = f"evaluation.episodes={options.episodes}"
    config = load_config([options.recipe], [*RECIPES[options.recipe].overrides, *settings, episodes])
    config.learner.validate()
    return config


def run_setting(
    config: Config, lag: int, seed: int, model: Path, start: dict[str, float], tokens: int
) -> dict[str, Any]:
    """One run, in a process of its own."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the learner's program does
    return run(config, model, start=start, seed=seed, lag=lag, tokens=tokens)


def start_of(config: Config, folder: Path) -> tuple[Path, dict[str, float]]:
    """The model that all runs begin with, and its held-out success. A warmed up one is put into `folder`."""
    source = prepare_model(config.model.path)
    loop = Loop(config, source, seed=0)

    def measure() -> dict[str, float]:
        loop.remember()
        return asyncio.run(loop.success())

    if config.learner.warm_start is None:
        return source, measure()
    numbers = count()

    def demonstrations(trees: int, wanted: Any) -> list[TrajectoryTree]:
        envs = [env for env in config.envs if not wanted or env.id in wanted]
        found = []
        for _ in range(trees):
            number = next(numbers)
            env = envs[number % len(envs)]
            levels = env.curriculum.levels
            level = levels[number // len(envs) % len(levels)]
            found.append(demonstration_tree(env, loop.renderer, TaskChoice(seed=2**30 + number, level=level)))
        return found

    warm_start(
        loop.learner,
        config.learner.warm_start,
        demonstrations=demonstrations,
        measure=measure,
        record=lambda record: None,
        stop=threading.Event(),
    )
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor.clone() for name, tensor in loop.learner.masters().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, measure()


def runs_of(found: dict[str, Any], study: str, name: str) -> list[dict[str, Any]]:
    """The finished runs of a setting."""
    return list(found["studies"].get(study, {}).get(name, {}).values())


def at_end(of: dict[str, Any]) -> float:
    return float(of["curve"][-1]["success"])


def over_run(of: dict[str, Any]) -> float:
    return statistics.fmean(point["success"] for point in of["curve"][1:])


def table(found: dict[str, Any], recipe: Recipe) -> str:
    """Of everything that is there; with a baseline also whose seeds' range is apart from its."""
    lines = [
        "| study | setting | success at the end | mean over the run | seeds |",
        "|---|---|---:|---:|---:|",
    ]
    base = runs_of(found, *recipe.baseline) if recipe.baseline else []
    verdicts = []
    for setting in recipe.settings:
        runs = runs_of(found, setting.study, setting.name)
        if not runs:
            continue
        cells = []
        for what, measure in {"at the end": at_end, "over the run": over_run}.items():
            values = [measure(of) for of in runs]
            cells.append(f"{statistics.fmean(values):.3f} ({min(values):.2f} to {max(values):.2f})")
            # One seed has no range.
            if len(runs) > 1 and len(base) > 1 and (setting.study, setting.name) != recipe.baseline:
                verdict = apart(values, [measure(of) for of in base])
                verdicts.append(f"{setting.study}, {setting.name}, {what}: {verdict}")
        lines.append(f"| {setting.study} | {setting.name} | {' | '.join(cells)} | {len(runs)} |")
    if verdicts:
        lines += ["", "Against the recipe as it was:", *verdicts]
    return "\n".join(lines)


def table_by_environment(found: dict[str, Any], recipe: Recipe) -> str:
    """Mean success at the end, of the settings whose runs say it."""
    ends = {
        (setting.study, setting.name): [of["curve"][-1]["envs"] for of in runs if "envs" in of["curve"][-1]]
        for setting in recipe.settings
        if (runs := runs_of(found, setting.study, setting.name))
    }
    envs = list(dict.fromkeys(env for seeds in ends.values() for end in seeds for env in end))
    lines = [f"| study | setting | {' | '.join(envs)} |", f"|---|---|{'---:|' * len(envs)}"]
    for (study, name), seeds in ends.items():
        if seeds:
            means = [f"{statistics.fmean(end[env] for end in seeds):.3f}" for env in envs]
            lines.append(f"| {study} | {name} | {' | '.join(means)} |")
    return "\n".join(lines) if envs else ""


def apart(values: Sequence[float], base: Sequence[float]) -> str:
    """Whether the ranges of two settings' seeds lie apart."""
    if min(values) > max(base):
        return "above, every seed"
    return "below, every seed" if max(values) < min(base) else "within the seeds' range"


def plot(found: dict[str, Any], recipe: Recipe, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    width = len(recipe.panels)
    figure, axes = pyplot.subplots(1, width, figsize=(4 * width, 3.6), sharey=True)
    for axis, (title, lines) in zip(axes, recipe.panels.items(), strict=True):
        for label, (study, name) in lines.items():
            curves = [of["curve"] for of in runs_of(found, study, name)]
            points = list(zip(*curves, strict=True))
            if not points:
                continue
            tokens = [statistics.fmean(p["tokens"] for p in at) for at in points]
            success = [[p["success"] for p in at] for at in points]
            (line,) = axis.plot(tokens, [statistics.fmean(s) for s in success], label=label, marker=".")
            low, high = [min(s) for s in success], [max(s) for s in success]
            axis.fill_between(tokens, low, high, color=line.get_color(), alpha=0.15)
        axis.set(title=title, xlabel="sampled tokens")
        if axis.lines:
            axis.legend(fontsize=7)
    axes[0].set(ylabel="held-out success")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def keep(found: dict[str, Any], path: Path) -> None:
    """Write what was found; a program that is stopped meanwhile leaves what was there."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(path)


def read_results(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Raises SystemExit if the runs there are of another kind."""
    asked = {"tokens": options.tokens, "episodes": options.episodes}
    if options.anew or not path.exists():
        return {**asked, "studies": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    for name, value in asked.items():
        if found[name] != value:
            sys.exit(f"--{name}: expected {found[name]}, as in {path}, or --anew; got {value}")
    return found


def minutes(waiting: Sequence[object], found: dict[str, Any], recipe: Recipe, jobs: int) -> float:
    """That the runs will take, by those that are there."""
    seconds = [
        of["seconds"] for study in found["studies"].values() for s in study.values() for of in s.values()
    ]
    each = statistics.fmean(seconds) if seconds else recipe.run_seconds * found["tokens"] / recipe.tokens
    return -(-len(waiting) // jobs) * each / 60


def run_all(
    waiting: Sequence[tuple[Setting, int]], found: dict[str, Any], path: Path, options: argparse.Namespace
) -> int:
    """Run what is waiting, and add to `found` and `path` what ends. Returns how many runs failed."""
    config = config_of(options)
    found["machine"] = machine()
    found["dtype"] = dtype_name(choose_dtype(config.model.dtype))
    with tempfile.TemporaryDirectory() as scratch:
        model, start = start_of(config, Path(scratch))
        print("all begin with", start, flush=True)
        found["start"] = start
        # Two jobs with two threads each on two cores, most of them waiting in a spin, take ten times as long.
        os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, mp_context=spawned, max_tasks_per_child=1) as pool:
            runs = {}
            for setting, seed in waiting:
                config = config_of(options, setting.settings)
                future = pool.submit(run_setting, config, setting.lag, seed, model, start, options.tokens)
                runs[future] = setting, seed
            failed = 0
            for done in as_completed(runs):
                setting, seed = runs[done]
                if error := done.exception():  # the others go on
                    print(f"{setting.study}, {setting.name}, seed {seed}: {error!r}", flush=True)
                    traceback.print_exception(error)
                    failed += 1
                    continue
                result = done.result()
                if result["broken"]:  # its samples are not those of the setting
                    print(f"{setting.study}, {setting.name}, seed {seed}: {result['broken']} broken rollouts")
                    failed += 1
                    continue
                study = found["studies"].setdefault(setting.study, {})
                study.setdefault(setting.name, {})[str(seed)] = result
                keep(found, path)
                curve = [round(point["success"], 3) for point in result["curve"]]
                print(
                    f"{setting.study:10} {setting.name:20} seed {seed}: {curve}, {result['steps']} steps, "
                    f"{result['seconds']:.0f} s",
                    flush=True,
                )
    return failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="tiny")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="studies, or settings by the names of the table")
    parser.add_argument("--tokens", type=int, help="sampled tokens of a run")
    parser.add_argument("--episodes", type=int, default=100, help="held-out ones an environment")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument("--anew", action="store_true", help="forget the recorded runs")
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be run, and how long it takes"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture alone")
    parser.add_argument("--output", type=Path, help="another JSON file")
    options = parser.parse_args()
    settings = RECIPES[options.recipe].settings
    names = {name for setting in settings for name in (setting.study, setting.name)}
    if unknown := set(options.only or ()) - names:
        parser.error(f"--only: expected some of {sorted(names)}, got {sorted(unknown)}")
    return options


def main() -> None:
    options = parse()
    recipe = RECIPES[options.recipe]
    path = options.output or recipe.results
    options.tokens = options.tokens or recipe.tokens
    found = read_results(path, options)
    only = set(options.only or ())
    waiting = [
        (setting, seed)
        for seed in options.seeds
        for setting in recipe.settings
        if not only or only & {setting.study, setting.name}
        if str(seed) not in found["studies"].get(setting.study, {}).get(setting.name, {})
    ]
    print(machine())
    if not options.report:
        expected = minutes(waiting, found, recipe, options.jobs)
        print(f"{len(waiting)} runs of {options.tokens} tokens, about {expected:.0f} minutes", flush=True)
    if options.dry_run:
        for setting, seed in waiting:
            print(f"{setting.study:10} {setting.name:20} seed {seed}: lag {setting.lag}", *setting.settings)
        return
    failed = run_all(waiting, found, path, options) if waiting and not options.report else 0
    print(table(found, recipe), table_by_environment(found, recipe), sep="\n\n")
    plot(found, recipe, path.with_suffix(".png"))
    if failed:
        sys.exit(f"{failed} runs failed; the same command runs them again")


if __name__ == "__main__":
    main()
