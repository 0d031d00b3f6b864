"""What given machines would do: a simulation from costs measured here, held against real runs.

    python -m benchmarks.scale [--workers 1 2 4] [--steps 40]
    python -m benchmarks.scale --machines cluster.toml
    python -m benchmarks.scale --links

The first measures what a turn, a token, a step and a version cost on this machine, with the tiny model, and
runs `trieline train` with 1, 2 and 4 worker processes, acting and learning in turns and beside each other;
beside each run it prints what the simulation had said. Written to `benchmarks/results/scale.json`.

The second reads machines, costs and a workload (docs/scale.md shows a file) and prints the prediction. The
third prints what each link carries at 10, 1,000 and 100,000 episodes at once (`scale_links`).
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import torch

from benchmarks.scale_links import Episodes, table
from benchmarks.scale_simulation import Costs, MachineSpec, Prediction, RunSpec, Simulation, Workload
from trieline.config import load_config
from trieline.launcher.core_sharing import share_cores
from trieline.learner.model_folder.model_source import prepare_model
from trieline.wire.config import LinksConfig
from trieline.wire.journal import read_journal
from trieline.wire.messages import Sampling
from trieline.wire.policy_client import PolicyClient
from trieline.wire.tree import TrajectoryTree

RESULTS = Path(__file__).parent / "results" / "scale.json"
ROWS, NEW_TOKENS, PROMPTS = (1, 4, 16), (1, 4, 16), (8, 64)
ROUNDS, START_S = 20, 120.0
WARM_UP_STEPS = 4
GROUP, TREES, EPISODES = 4, 16, 4
SETTINGS = (
    'envs=[{id="trieline/GuessNumber-v0",kwargs={level=3},episode={max_turns=3,max_tokens=8},curriculum={levels=[3]}}]',
    'model={path="builtin:tiny",dtype="float32"}',
    "evaluation.episodes=0",
    f"learner.group_size={GROUP}",
    f"learner.trees_per_step={TREES}",
    f"actor.episodes={EPISODES}",
    "learner.canary_every=0",
    "learner.optimizer.lr=1e-7",
)
"""Few episodes a worker, so that more workers give the policy server more to do at once."""

Load = tuple[int, int, int]
"""Tokens of a prompt, tokens of an answer, requests at once."""


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workload by its means, or recorded."""

    journal: str = ""
    """Folder of a recorded one: then `env_s` alone counts of the rest."""
    turns: int = 30
    context_tokens: int = 1_500
    sampled_tokens: int = 200
    shared_tokens: int = 2_000
    group_size: int = 8
    env_s: float = 0.0

    def workload(self) -> Workload:
        """Turns within half of the mean around it; sampled tokens of a turn as exponential as answers are."""
        if self.journal:
            recorded = workload_of([delivery.tree for delivery in read_journal(Path(self.journal))])
            return msgspec.structs.replace(recorded, env_s=self.env_s)
        rng = np.random.default_rng(0)
        lengths = rng.integers(max(1, self.turns // 2), self.turns + self.turns // 2 + 1, 256)
        return Workload(
            episodes=[
                [
                    (self.context_tokens, 1 + int(tokens))
                    for tokens in rng.exponential(max(1, self.sampled_tokens - 1), int(turns))
                ]
                for turns in lengths
            ],
            shared_tokens=self.shared_tokens,
            group_size=self.group_size,
            env_s=self.env_s,
        )


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file of `--machines` holds."""

    costs: Costs
    workload: Spread
    machines: list[MachineSpec]
    run: RunSpec


def server_costs() -> dict[str, float]:
    """Processor seconds of a step, of a row in it, of a prompt's token and of a request, by least squares.

    Of the policy server's process, asked over its link as workers ask it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        links = {name: f"ipc://{scratch}/{name}" for name in ("trajectories", "generate", "weights_fetch")}
        flags = [f"links.{name}={address}" for name, address in links.items()]
        flags += [f"policy_server.max_rows={max(ROWS)}", "policy_server.threads=1", *SETTINGS]
        command = [sys.executable, "-m", "trieline", "policy-server"]
        command += [part for flag in flags for part in ("--set", flag)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            client = PolicyClient(msgspec.convert(links, LinksConfig))
            loads, seconds = asyncio.run(_asked(client, psutil.Process(process.pid)))
        finally:
            process.terminate()
            process.wait()
    factors = np.asarray(
        [[tokens, tokens * rows, rows * length, rows] for length, tokens, rows in loads], np.float64
    )
    scale = 1 / np.asarray(seconds)  # each point counts by its relative error
    names = ["server_step_s", "server_row_s", "prompt_token_s", "request_s"]
    counted = list(range(len(names)))
    while True:
        found, *_ = np.linalg.lstsq(factors[:, counted] * scale[:, None], np.ones(len(seconds)), rcond=None)
        if found.min() >= 0:
            return dict.fromkeys(names, 0.0) | {
                names[column]: float(cost) for column, cost in zip(counted, found, strict=True)
            }
        del counted[int(found.argmin())]  # nothing costs less than nothing


async def _asked(client: PolicyClient, server: psutil.Process) -> tuple[list[Load], list[float]]:
    """What was asked at once, with the processor seconds of each."""
    await client.start()
    await client.status(START_S)
    rng = np.random.default_rng(0)

    async def ask(length: int, tokens: int, rows: int) -> None:
        prompts = [rng.integers(3, 250, length).astype(np.int32) for _ in range(rows)]
        sampling = Sampling(max_tokens=tokens)
        await asyncio.gather(*(client.generate(prompt, sampling, timeout_s=START_S) for prompt in prompts))

    loads = list(itertools.product(PROMPTS, NEW_TOKENS, ROWS))
    seconds = []
    for load in loads:
        await ask(*load)
        before = sum(server.cpu_times()[:2])
        for _ in range(ROUNDS):
            await ask(*load)
        seconds.append((sum(server.cpu_times()[:2]) - before) / ROUNDS)
    await client.close()
    return loads, seconds


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A real run, without its first steps."""

    sampled_tokens_per_s: float
    step_s: float
    staleness: float
    learner_s: list[tuple[float, float]]
    """Of each step: unique tokens, and seconds of the learner's own."""
    publish_s: float
    worker_s_a_turn: float
    """Processor seconds of the workers."""
    trees: list[TrajectoryTree]

    @property
    def learner_s_a_token(self) -> float:
        """What of a step is fixed included."""
        tokens, seconds = np.asarray(self.learner_s).T
        return float(seconds.sum() / tokens.sum())


def real_run(workers: int, staleness: int, steps: int) -> Measured:
    """`trieline train` with so many workers of one actor."""
    with tempfile.TemporaryDirectory() as scratch:
        run = f"run={{folder='{scratch}',name='run'}}"
        own = (
            run,
            f"actor.processes={workers}",
            f"learner.max_staleness={staleness}",
            f"learner.steps={steps}",
        )
        flags = [part for setting in (*SETTINGS, *own) for part in ("--set", setting)]
        command = [sys.executable, "-m", "trieline", "train", *flags]
        with (Path(scratch) / "screen.txt").open("w") as screen:
            process = subprocess.Popen(command, stdout=screen, stderr=screen, stdin=subprocess.DEVNULL)
            clocks = []
            while process.poll() is None:
                clocks.append((time.time(), _worker_seconds(process.pid)))
                time.sleep(0.2)
        if process.returncode:
            sys.exit((Path(scratch) / "screen.txt").read_text()[-2000:])
        (folder,) = Path(scratch).glob("run-*")
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        trees = [delivery.tree for delivery in read_journal(folder / "journal")]
    made = [record for record in records if "time/step" in record]
    counted = made[WARM_UP_STEPS:]
    began, ended = made[WARM_UP_STEPS - 1]["time"], made[-1]["time"]
    spent = _between(clocks, began, ended)
    seconds = sum(record["time/step"] for record in counted)
    turns = sum(_turns(tree) for tree in trees) * len(counted) / len(made)
    return Measured(
        sampled_tokens_per_s=sum(record["tokens/sampled"] for record in counted) / seconds,
        step_s=seconds / len(counted),
        staleness=statistics.mean(record["off_policy/staleness/mean"] for record in counted),
        learner_s=[
            (
                record["batch/trie_tokens"],
                record["time/step"] - record["time/wait_for_batch"] - record["time/sync_weights"],
            )
            for record in counted
        ],
        publish_s=statistics.mean(record["time/sync_weights"] for record in counted),
        worker_s_a_turn=spent / turns,
        trees=trees,
    )


def _worker_seconds(launcher: int) -> float:
    """Processor time of the workers below a launcher: actors' children."""
    found: dict[int, tuple[int, str, float]] = {}
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit():
            try:
                command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                fields = (proc / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(proc.name)] = (int(fields[1]), command, used)
    actors = {
        pid for pid, (parent, command, _) in found.items() if parent == launcher and " actor " in command
    }
    return sum(used for parent, _, used in found.values() if parent in actors)


def _between(clocks: Sequence[tuple[float, float]], began: float, ended: float) -> float:
    times, found = zip(*clocks, strict=True)
    used = np.maximum.accumulate(found)  # workers that have ended count as before
    return float(np.interp(ended, times, used) - np.interp(began, times, used))


def _turns(tree: TrajectoryTree) -> int:
    return int(sum(sum(bool(tree.sampled[node]) for node in tree.path(leaf)) for leaf in tree.leaf_nodes))


def workload_of(trees: Sequence[TrajectoryTree]) -> Workload:
    """The turns of recorded episodes."""
    episodes, shared = [], []
    group = round(statistics.mean(tree.num_leaves for tree in trees))
    for tree in trees:
        shared.append(int(np.diff(tree.node_offsets)[0]))
        for leaf in tree.leaf_nodes:
            turns, context = [], 0
            for node in tree.path(leaf)[1:]:
                length = int(tree.node_offsets[node + 1] - tree.node_offsets[node])
                if tree.sampled[node]:
                    turns.append((context, length))
                    context = 0
                else:
                    context += length
            episodes.append(turns)
    return Workload(episodes=episodes, shared_tokens=statistics.mean(shared), group_size=group)


def costs_of(server: dict[str, float], run: Measured, weights_bytes: int) -> Costs:
    """What was measured of the policy server by itself and of each program in one run."""
    tokens, seconds = np.asarray(run.learner_s).T
    token_s, step_s = np.polyfit(tokens, seconds, 1)
    if token_s <= 0 or step_s < 0:  # steps of one size say nothing of what is fixed
        token_s, step_s = run.learner_s_a_token, 0.0
    return Costs(
        turn_s=run.worker_s_a_turn,
        learner_step_s=float(step_s),
        learner_token_s=float(token_s),
        publish_s=run.publish_s,
        weights_bytes=weights_bytes,
        **server,
    )


def this_machine(workers: int, staleness: int, cores: int) -> MachineSpec:
    """With the threads that `trieline train` gives its programs here."""
    config = share_cores(load_config(["smollm2"], [*SETTINGS, f"learner.max_staleness={staleness}"]), cores)
    assert config.learner.threads is not None, "filled in"
    return MachineSpec(
        cores=cores,
        learner=True,
        learner_threads=config.learner.threads,
        policy_servers=1,
        server_threads=config.policy_server.threads,
        workers=workers,
        episodes=EPISODES,
    )


def compare(workers: Sequence[int], steps: int) -> dict[str, Any]:
    """Runs beside what the simulation says of them, with the costs of the first."""
    cores = len(os.sched_getaffinity(0))
    server = server_costs()
    weights = sum(path.stat().st_size for path in prepare_model("builtin:tiny").glob("*.safetensors"))
    result: dict[str, Any] = {
        "command": "python -m benchmarks.scale",
        "machine": f"{platform.machine()}, {cores} cores, torch {torch.__version__}",
        "load_average_before": round(os.getloadavg()[0], 1),
    }
    costs, load, rows = None, None, []
    for staleness in (0, 1):
        for number in workers:
            run = real_run(number, staleness, steps)
            if costs is None or load is None:
                costs, load = costs_of(server, run, weights), workload_of(run.trees)
                result["costs"] = msgspec.to_builtins(costs)
                print(result["costs"])
            said = Simulation(
                costs,
                load,
                [this_machine(number, staleness, cores)],
                RunSpec(trees_per_step=TREES, max_staleness=staleness, steps=steps),
            ).run()
            rows.append(_row(number, staleness, run, said))
            print(rows[-1], flush=True)
    return result | {"runs": rows}


def _row(workers: int, staleness: int, run: Measured, said: Prediction) -> dict[str, Any]:
    return {
        "workers": workers,
        "max_staleness": staleness,
        "tokens_per_s": {
            "run": round(run.sampled_tokens_per_s, 1),
            "said": round(said.sampled_tokens_per_s, 1),
        },
        "ratio": round(said.sampled_tokens_per_s / run.sampled_tokens_per_s, 2),
        "step_s": {"run": round(run.step_s, 3), "said": round(said.step_s, 3)},
        "staleness": {"run": round(run.staleness, 2), "said": round(said.staleness, 2)},
        "worker_ms_a_turn": round(run.worker_s_a_turn * 1e3, 3),
        "learner_ms_a_token": round(run.learner_s_a_token * 1e3, 3),
        "busy": {name: round(share, 2) for name, share in said.busy.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--machines", type=Path, help="a TOML file: predict, and measure nothing")
    parser.add_argument("--links", action="store_true", help="what each link carries")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.links:
        print(table(Episodes()))
        return
    if options.machines is not None:
        plan = msgspec.convert(tomllib.loads(options.machines.read_text(encoding="utf-8")), Plan)
        print(
            json.dumps(
                asdict(Simulation(plan.costs, plan.workload.workload(), plan.machines, plan.run).run()),
                indent=2,
            )
        )
        return
    result = compare(options.workers, options.steps)
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
