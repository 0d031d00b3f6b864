"""What corrections for lag, entropy-aware scaling and forks buy: success at equal sampled tokens.

    python -m benchmarks.learning [--seeds 0 1 2] [--tokens 24000] [--jobs 2] [--studies lag scaling forks]

The tiny model on FrozenLake and GuessNumber (the recipe `tiny`), from one supervised warm start that all runs
share. Learner, sampling engine and episodes are those of `trieline train`, in one process, so that lag is
exact: at step t the trees were sampled by the weights of step t - lag. A run ends when `--tokens` tokens have
been sampled. Held-out success is measured at the end and at each quarter before it (200 episodes, sampled at
temperature 1); the table has the end and the mean over the run, each over seeds with its range.

Studies:

lag      `group` advantages with no weight (`pg`), truncated (`tis`) and masked (`icepop`) ones, and
         V-trace (advantage `vtrace`, loss `vtrace_pg`), at lag 0, 4 and 16
scaling  advantages scaled by entropy: off, sequence, token; at lag 0
forks    8 rollouts of a task, against 4 and 4 forks at random turns or at those of the highest entropy, with
         `tree` advantages; at lag 0

Written to `benchmarks/results/learning.json`, run by run: what is there is not run again (`--anew` does). A
picture lies beside it.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from benchmarks.train_step import machine
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.player import Stage
from trieline.actors.rollout_group import GroupPlayer
from trieline.common.arrays import Int32
from trieline.config import Config, load_config
from trieline.launcher.evaluation import play_evaluation
from trieline.learner.config import EvaluationConfig
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.decoder import load_decoder
from trieline.learner.policy_server.cpu.engine import CpuEngine
from trieline.learner.update.learner import Learner
from trieline.learner.warm_start import warm_start
from trieline.wire.messages import Completion, GenerateRequest, Sampling
from trieline.wire.tree import TrajectoryTree

RESULTS = Path(__file__).parent / "results" / "learning.json"
LAGS = (0, 4, 16)
CORRECTIONS: dict[str, dict[str, Any]] = {
    "none": {"loss": "pg"},
    "truncated": {"loss": "tis"},
    "masked": {"loss": "icepop"},
    "V-trace": {"advantage": "vtrace", "loss": "vtrace_pg"},
}
TREES_PER_STEP = 16
ROLLOUTS = 8
QUARTERS = 4
EVALUATION_EPISODES = 100
"""Per environment."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of a study's table."""

    study: str
    name: str
    lag: int = 0
    objective: dict[str, Any] = field(default_factory=dict)
    actor: dict[str, Any] = field(default_factory=dict)
    rollouts: int = ROLLOUTS


def settings_of(study: str) -> Iterator[Setting]:
    if study == "lag":
        for lag in LAGS:
            for name, objective in CORRECTIONS.items():
                yield Setting(study=study, name=f"{name}, lag {lag}", lag=lag, objective=objective)
    elif study == "scaling":
        for scaling in ("off", "sequence", "token"):
            yield Setting(study=study, name=scaling, objective={"entropy_scaling": scaling})
    else:
        for branching in ("none", "random", "entropy"):
            forks = 0 if branching == "none" else ROLLOUTS // 2
            yield Setting(
                study=study,
                name=branching,
                objective={"advantage": "tree"},
                actor={"branching": branching, "branches": forks},
                rollouts=ROLLOUTS - forks,
            )


class LocalPolicy:
    """A policy for episodes of this process: an engine that steps while somebody waits for a reply."""

    def __init__(self, engine: CpuEngine) -> None:
        self.engine = engine
        self._replies: dict[int, asyncio.Future[Completion]] = {}
        self._numbers = count()
        self._asked: asyncio.Event

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self.engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
        self._asked.set()
        return await asyncio.wait_for(reply, timeout_s)

    async def serve(self) -> None:
        try:
            await self._serve()
        except Exception as error:  # else everybody would wait for a reply until the deadline
            for reply in self._replies.values():
                reply.set_exception(RuntimeError(f"the engine failed: {error!r}"))
            raise

    async def _serve(self) -> None:
        while True:
            while self.engine.busy:
                for finished in self.engine.step():
                    self._replies.pop(finished.ticket[1]).set_result(finished.completion)
                # Episodes go on with what they got, so that the next step has their next turns.
                await asyncio.sleep(0)
            self._asked.clear()
            await self._asked.wait()

    @asynccontextmanager
    async def serving(self) -> Any:
        self._asked = asyncio.Event()  # which belongs to one event loop, and each call runs its own
        server = asyncio.create_task(self.serve())
        try:
            yield self
        finally:
            server.cancel()


class Loop:
    """Learner, engine and episodes of one run."""

    def __init__(self, config: Config, model: Path, setting: Setting, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.learner = Learner(config.learner, model, dtype=torch.float32)
        self.policy = LocalPolicy(CpuEngine(load_decoder(model, torch.float32), PolicyServerConfig()))
        self.renderer = ChatRenderer(
            model, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
        )
        self.actor = msgspec.structs.replace(config.actor, seed=seed, **setting.actor)
        self.curriculum = Curriculum(config.envs, seed=seed, group_size=setting.rollouts)
        self._versions: deque[tuple[int, dict[str, torch.Tensor]]] = deque(maxlen=setting.lag + 1)
        self.remember()

    def remember(self) -> None:
        """Keep the newest weights, and let the engine serve those of `lag` steps ago."""
        weights = {name: tensor.clone() for name, tensor in self.learner.weights().items()}
        self._versions.append((self.learner.policy_version, weights))
        version, oldest = self._versions[0]
        self.policy.engine.take_weights(oldest, version)

    @asynccontextmanager
    async def player(self, config: ActorConfig) -> AsyncIterator[GroupPlayer]:
        """Plays with the weights that the engine serves."""
        host = EnvHost(threads=4, max_stuck=4, call_timeout_s=60)
        try:
            async with self.policy.serving():
                yield GroupPlayer(
                    stage=Stage(
                        config=config,
                        envs={env.id: env for env in self.config.envs},
                        renderer=self.renderer,
                        policy=self.policy,
                        host=host,
                        slots=EpisodeSlots(256),
                    )
                )
        finally:
            await host.close()

    async def sample(self) -> list[TrajectoryTree]:
        assignments = [self.curriculum.next_assignment() for _ in range(TREES_PER_STEP)]
        async with self.player(self.actor) as player:
            trees = await asyncio.gather(*(player.play(one) for one in assignments))
        for tree in trees:
            returns = [float(tree.sequence_return(leaf)) for leaf in tree.scored_leaves()]
            self.curriculum.record(tree.env_id, tree.level, returns)
        return trees

    async def success(self) -> dict[str, float]:
        """Held-out success of the newest weights."""
        version, weights = self._versions[-1]
        self.policy.engine.take_weights(weights, version)
        settings = EvaluationConfig(episodes=EVALUATION_EPISODES)
        async with self.player(self.config.actor) as player:
            report = await play_evaluation(msgspec.structs.replace(self.config, evaluation=settings), player)
        version, weights = self._versions[0]
        self.policy.engine.take_weights(weights, version)
        return {env.env_id: env.mean_return or 0.0 for env in report.envs}


def mean_of(success: dict[str, float]) -> float:
    return statistics.fmean(success.values())


def run(setting: Setting, seed: int, model: Path, tokens: int) -> dict[str, Any]:
    """One run, in a process of its own."""
    torch.set_num_threads(1)
    config = load_config(["tiny"])
    objective = ObjectiveConfig(**setting.objective)
    config = msgspec.structs.replace(
        config, learner=msgspec.structs.replace(config.learner, objective=objective, warm_start=None)
    )
    loop = Loop(config, model, setting, seed)
    began, sampled, steps = time.monotonic(), 0, 0
    curve = [{"tokens": 0, "success": mean_of(asyncio.run(loop.success()))}]
    while sampled < tokens:
        trees = asyncio.run(loop.sample())
        sampled += sum(int(tree.policy_versions.size - (tree.policy_versions < 0).sum()) for tree in trees)
        loop.learner.step(trees)
        loop.remember()
        steps += 1
        if sampled * QUARTERS >= tokens * len(curve):
            curve.append({"tokens": sampled, "success": mean_of(asyncio.run(loop.success()))})
    return {"curve": curve, "steps": steps, "seconds": time.monotonic() - began}


def make_model(folder: Path) -> dict[str, float]:
    """The tiny model after the recipe's warm start, in `folder`; its sampled success."""
    config = load_config(["tiny"])
    source = prepare_model(config.model.path)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    loop = Loop(config, source, Setting(study="", name=""), seed=0)
    numbers = count()

    def demonstrations(trees: int, wanted: Any) -> list[TrajectoryTree]:
        envs = [env for env in config.envs if not wanted or env.id in wanted]
        found = []
        for _ in range(trees):
            number = next(numbers)
            env = envs[number % len(envs)]
            levels = env.curriculum.levels
            level = levels[number // len(envs) % len(levels)]
            found.append(demonstration_tree(env, loop.renderer, 2**30 + number, level))
        return found

    def measure() -> dict[str, float]:
        loop.remember()
        return asyncio.run(loop.success())

    assert config.learner.warm_start is not None
    warm_start(
        loop.learner,
        config.learner.warm_start,
        demonstrations=demonstrations,
        measure=measure,
        record=lambda record: None,
        stop=threading.Event(),
    )
    weights = {name: tensor.clone() for name, tensor in loop.learner.masters().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return measure()


def table(found: dict[str, Any]) -> str:
    lines = [
        "| study | setting | success at the end | mean over the run | seeds |",
        "|---|---|---:|---:|---:|",
    ]
    for study, settings in found["studies"].items():
        for name, seeds in settings.items():
            last = [run["curve"][-1]["success"] for run in seeds.values()]
            over = [statistics.fmean(p["success"] for p in run["curve"][1:]) for run in seeds.values()]
            lines.append(
                f"| {study} | {name} | {statistics.fmean(last):.3f} ({min(last):.2f} to {max(last):.2f}) "
                f"| {statistics.fmean(over):.3f} ({min(over):.2f} to {max(over):.2f}) | {len(last)} |"
            )
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [("lag", f", lag {lag}") for lag in LAGS] + [("scaling", ""), ("forks", "")]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True)
    for axis, (study, suffix) in zip(axes, panels, strict=True):
        for name, seeds in found["studies"].get(study, {}).items():
            if not name.endswith(suffix):
                continue
            curves = [run["curve"] for run in seeds.values()]
            points = list(zip(*curves, strict=True))
            tokens = [statistics.fmean(p["tokens"] for p in at) for at in points]
            success = [[p["success"] for p in at] for at in points]
            (line,) = axis.plot(
                tokens, [statistics.fmean(s) for s in success], label=name.removesuffix(suffix), marker="."
            )
            axis.fill_between(
                tokens,
                [min(s) for s in success],
                [max(s) for s in success],
                color=line.get_color(),
                alpha=0.15,
            )
        axis.set(title=suffix.removeprefix(", ") or study, xlabel="sampled tokens")
        axis.legend(fontsize=7)
    axes[0].set(ylabel="held-out success")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--studies", nargs="+", default=["lag", "scaling", "forks"])
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument("--anew", action="store_true", help="forget the recorded runs")
    options = parser.parse_args()
    found: dict[str, Any] = {"tokens": options.tokens, "studies": {}}
    if RESULTS.exists() and not options.anew:
        found = json.loads(RESULTS.read_text())
        if found["tokens"] != options.tokens:
            parser.error(f"--tokens: expected {found['tokens']}, as in {RESULTS}, or --anew")
    found["machine"] = machine()
    with tempfile.TemporaryDirectory() as scratch:
        start = make_model(Path(scratch))
        print("after the warm start:", start, flush=True)
        found["start"] = start
        waiting = [
            (setting, seed)
            for seed in options.seeds
            for study in options.studies
            for setting in settings_of(study)
            if str(seed) not in found["studies"].get(study, {}).get(setting.name, {})
        ]
        # Two jobs with two threads each on two cores, most of them waiting in a spin, take ten times as long.
        os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, mp_context=spawned, max_tasks_per_child=1) as pool:
            runs = {
                pool.submit(run, setting, seed, Path(scratch), options.tokens): (setting, seed)
                for setting, seed in waiting
            }
            for done in as_completed(runs):
                setting, seed = runs[done]
                result = done.result()
                found["studies"].setdefault(setting.study, {}).setdefault(setting.name, {})[str(seed)] = (
                    result
                )
                curve = [round(point["success"], 3) for point in result["curve"]]
                print(f"{setting.study:8} {setting.name:20} seed {seed}: {curve}", flush=True)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    plot(found, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
