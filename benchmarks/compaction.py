"""What an agent learns to write into its summary, with credit along *continues* and without.

    python -m benchmarks.compaction [--seeds 0 1 2] [--steps 40] [--only SETTING ...] [--report]

The game is that of `compaction_game`: three things are told, a note of one is all that the next
context window has, and what is asked there only its reward tells. The tiny model (0.8 M parameters) is warmed
up by demonstrations that note any of the three, up to a measured success; from there all runs go on with 32
tasks x 8 rollouts a step, `group` advantages and `ppo_clip` unless said otherwise, no lag. Learner and
sampling engine are those of `trieline train`, in one process. Settings:

continues  the trees as they are: the note has the return of the answer
vtrace     as they are, with V-trace: the note bootstraps from the state in which the second window begins
apart      the edges taken out before training, as for a trainer that knows prefixes alone: a note is a
           sequence of its own, with the return that it has itself, 0. Notes are compared with notes and
           answers with answers (`leaf_groups`), which is the kindest way to go on without edges
together   the same, but all sequences of a task compared with each other: a note earns 0 where answers earn

Measured every `--every` steps over 400 held-out tasks, sampled at temperature 1: success, the share of notes
that are about the thing asked for, and success where they are. Written run by run to
`benchmarks/results/compaction.json`; a run that is there is not run again (`--anew` does).
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from benchmarks.compaction_game import ASKED, ENV_ID, NotePlayer, demonstration
from benchmarks.local_loop import LocalPolicy
from benchmarks.train_step import machine
from trieline.actors.chat import ChatRenderer
from trieline.common.arrays import Int32
from trieline.learner.allocator import keep_freed_memory
from trieline.learner.config import LearnerConfig, OptimizerConfig, WarmStartConfig
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.update.learner import Learner
from trieline.learner.warm_start import warm_start
from trieline.wire.messages import Assignment
from trieline.wire.tree import NO_COLUMN, TrajectoryTree

RESULTS = Path(__file__).parent / "results" / "compaction.json"
SETTINGS = ("continues", "vtrace", "apart", "together")
HELD_OUT = range(2**30, 2**30 + 400)
WARM_START = WarmStartConfig(target=0.36, max_steps=3000, trees_per_step=64, lr=1e-3, evaluate_every=50)
CONFIG = LearnerConfig(
    trees_per_step=32,
    group_size=8,
    max_staleness=0,
    optimizer=OptimizerConfig(lr=1e-4),
    objective=ObjectiveConfig(advantage="group", loss="ppo_clip"),
)
VTRACE = replace(CONFIG, objective=ObjectiveConfig(advantage="vtrace", loss="vtrace_pg"))


class Game:
    """Learner, engine and player of one run."""

    def __init__(self, model: Path, seed: int, config: LearnerConfig = CONFIG) -> None:
        torch.manual_seed(seed)
        self.learner = Learner(config, model, dtype=torch.float32)
        self.renderer = ChatRenderer(model, system_prompt="")
        self._policy = LocalPolicy(CpuEngine(load_decoder(model, torch.float32), PolicyServerConfig()))
        self._seed = seed

    def play(self, seeds: range, *, group_size: int, luck: int) -> list[TrajectoryTree]:
        """A tree for each task, by the newest weights."""
        self._policy.engine.take_weights(self.learner.weights(), self.learner.policy_version)
        player = NotePlayer(self.renderer, self._policy, seed=luck)

        async def play() -> list[TrajectoryTree]:
            async with self._policy.serving():
                tasks = [
                    Assignment(assignment_id=i, env_id=ENV_ID, seed=seed, group_size=group_size)
                    for i, seed in enumerate(seeds)
                ]
                return await asyncio.gather(*(player.play(task) for task in tasks))

        return asyncio.run(play())

    def measure(self) -> dict[str, float]:
        """Held-out figures of the newest weights."""
        trees = self.play(HELD_OUT, group_size=1, luck=0)
        won = np.array([tree.sequence_return(0) for tree in trees])
        noted = np.array([self.note(tree).startswith(ASKED) for tree in trees])
        return {
            "success": float(won.mean()),
            "notes": float(noted.mean()),
            "success_noted": float(won[noted].mean()) if noted.any() else 0.0,
        }

    def note(self, tree: TrajectoryTree) -> str:
        run = tree.node_tokens(int(tree.leaf_nodes[0]))
        return self.renderer.decode(tree.token_ids[run])


def as_trained(tree: TrajectoryTree, setting: str) -> TrajectoryTree:
    """The tree as the setting's learner has it. Leaves are note and answer in turn."""
    if setting in ("continues", "vtrace"):
        return tree
    kinds: Int32 = np.arange(tree.num_leaves, dtype=np.int32) % 2
    return replace(
        tree,
        edge_sources=NO_COLUMN,
        edge_targets=NO_COLUMN,
        edge_kinds=(),
        leaf_groups=kinds if setting == "apart" else NO_COLUMN,
    )


def warmed_up(folder: Path) -> dict[str, Any]:
    """Put the model that all runs begin with into `folder`."""
    source = prepare_model("builtin:tiny")
    game = Game(source, seed=0)
    seeds = count(2**29)
    began = time.monotonic()
    steps = warm_start(
        game.learner,
        WARM_START,
        demonstrations=lambda n, _: [demonstration(game.renderer, next(seeds)) for _ in range(n)],
        measure=lambda: {ENV_ID: game.measure()["success"]},
        record=lambda values: None,
        stop=threading.Event(),
    )
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor.clone() for name, tensor in game.learner.masters().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {"steps": steps, "seconds": time.monotonic() - began, **game.measure()}


def run(model: Path, setting: str, seed: int, *, steps: int, every: int) -> dict[str, Any]:
    """One run, measured on its way."""
    game = Game(model, seed, VTRACE if setting == "vtrace" else CONFIG)
    began = time.monotonic()
    curve = [{"step": 0, **game.measure()}]
    tokens = 0
    for step in range(steps):
        first = (seed * steps + step) * CONFIG.trees_per_step
        tasks = range(first, first + CONFIG.trees_per_step)
        trees = game.play(tasks, group_size=CONFIG.group_size, luck=2**20 * (seed + 1) + step)
        tokens += sum(int((tree.policy_versions >= 0).sum()) for tree in trees)
        game.learner.step([as_trained(tree, setting) for tree in trees])
        if (step + 1) % every == 0:
            curve.append({"step": step + 1, **game.measure()})
    return {"curve": curve, "sampled_tokens": tokens, "seconds": time.monotonic() - began}


def table(found: dict[str, Any]) -> str:
    """Of the ends of the runs: means over seeds, with their range."""
    lines = [
        "| credit | success | notes of what is asked | success with such a note | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    for setting, runs in found["runs"].items():
        ends = [of["curve"][-1] for of in runs.values()]
        cells = []
        for name in ("success", "notes", "success_noted"):
            values = [end[name] for end in ends]
            cells.append(f"{statistics.fmean(values):.3f} ({min(values):.2f} to {max(values):.2f})")
        lines.append(f"| {setting} | {' | '.join(cells)} | {len(ends)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.6), sharey=True)
    panels = {"success": "held-out success", "notes": "notes of what is asked"}
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for setting, runs in found["runs"].items():
            points = list(zip(*(of["curve"] for of in runs.values()), strict=True))
            steps = [at[0]["step"] for at in points]
            values = [[p[name] for p in at] for at in points]
            (line,) = axis.plot(steps, [statistics.fmean(v) for v in values], label=setting, marker=".")
            low, high = [min(v) for v in values], [max(v) for v in values]
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
        axis.set(title=title, xlabel="steps of 256 rollouts", ylim=(0, 1))
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10, help="steps between two measurements")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--anew", action="store_true", help="forget the recorded runs")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    asked = {"steps": options.steps, "every": options.every}
    found: dict[str, Any] = {**asked, "machine": machine(), "runs": {}}
    if options.output.exists() and not options.anew:
        found = json.loads(options.output.read_text())
        if (there := {name: found[name] for name in asked}) != asked:
            parser.error(f"expected {there}, as in {options.output}, or --anew; got {asked}")
    waiting = [
        (setting, seed)
        for seed in options.seeds
        for setting in options.only
        if str(seed) not in found["runs"].get(setting, {})
    ]
    if waiting and not options.report:
        torch.set_num_threads(1)
        keep_freed_memory()  # as the learner's program does
        with tempfile.TemporaryDirectory() as scratch:
            found["warm_start"] = warmed_up(Path(scratch))
            print("all begin with", found["warm_start"], flush=True)
            for setting, seed in waiting:
                result = run(Path(scratch), setting, seed, steps=options.steps, every=options.every)
                found["runs"].setdefault(setting, {})[str(seed)] = result
                options.output.write_text(json.dumps(found, indent=1) + "\n")
                success = [round(at["success"], 2) for at in result["curve"]]
                print(f"{setting:10} seed {seed}: {success}, {result['seconds']:.0f} s", flush=True)
    print(table(found))
    plot(found, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
