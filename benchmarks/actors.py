"""What an actor process costs: episodes a second and memory, with a policy that answers from a script.

    python -m benchmarks.actors [--model FOLDER] [--json FILE]

Each case runs in a process of its own, with the model's real tokenizer and template, and the links of the
wire loaded as in a worker. `latency_s` is how long the policy takes to answer: 0 shows the actor's own
cost, more shows episodes that wait side by side, as real ones do. Memory is the process's peak resident
size (VmHWM), shared libraries included. Written to `benchmarks/results/actors.json`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import trieline.actors.process  # noqa: F401 - everything that a worker has in memory
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.player import Stage
from trieline.actors.rollout_group import GroupPlayer
from trieline.common.arrays import Int32
from trieline.wire.config import EnvConfig, EpisodeConfig
from trieline.wire.messages import Assignment, Completion, Sampling
from trieline.wire.model_folder import builtin_folder

GROUP_SIZE = 8
RESULTS = Path(__file__).parent / "results" / "actors.json"
MEMORY_LIMIT_MB = 150
GAMES = (
    EnvConfig(id="trieline/Arithmetic-v0", episode=EpisodeConfig(max_turns=1, max_tokens=14)),
    EnvConfig(
        id="trieline/GuessNumber-v0", kwargs={"level": 3}, episode=EpisodeConfig(max_turns=5, max_tokens=6)
    ),
    EnvConfig(
        id="trieline/FrozenLake-v0", kwargs={"level": 2}, episode=EpisodeConfig(max_turns=8, max_tokens=6)
    ),
)
CODE = EnvConfig(id="trieline/PythonFunction-v0", episode=EpisodeConfig(max_turns=1, max_tokens=40))
CASES: tuple[dict[str, Any], ...] = (
    {"name": "games", "episodes": 64, "groups": 300, "latency_s": 0.0, "code": False},
    {"name": "games", "episodes": 1000, "groups": 500, "latency_s": 0.0, "code": False},
    {"name": "games, forked", "episodes": 64, "groups": 200, "latency_s": 0.0, "code": False, "branches": 4},
    {"name": "games, waiting", "episodes": 64, "groups": 100, "latency_s": 0.2, "code": False},
    {"name": "games, waiting", "episodes": 1000, "groups": 500, "latency_s": 0.2, "code": False},
    {"name": "games and code", "episodes": 64, "groups": 40, "latency_s": 0.2, "code": True},
)


class ScriptedPolicy:
    """Answers with one of a few lines after a while."""

    def __init__(self, renderer: ChatRenderer, latency_s: float) -> None:
        lines = ("7", "The answer is 12.", "right", "def f(x): return x")
        self._replies = [renderer.reply_tokens(line) for line in lines]
        self._latency_s = latency_s
        self.running = 0
        self.most_running = 0
        self.turns = 0

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(self._latency_s)
        self.running -= 1
        self.turns += 1
        tokens = self._replies[sampling.seed % len(self._replies)][: sampling.max_tokens]
        size = len(tokens)
        return Completion(
            request_id=0,
            token_ids=tokens,
            logprobs=np.full(size, -1.0, dtype=np.float32),
            entropies=np.full(size, 1.0, dtype=np.float32),
            policy_versions=np.zeros(size, dtype=np.int32),
            finish_reason="stop",
        )


async def play(case: dict[str, Any], model: Path) -> dict[str, Any]:
    """Play one case to its end."""
    forks = {"branching": "random", "branches": case["branches"]} if "branches" in case else {}
    config = ActorConfig(episodes=case["episodes"], **forks)
    renderer = ChatRenderer(model)
    policy = ScriptedPolicy(renderer, case["latency_s"])
    host = EnvHost(
        threads=config.env_threads, max_stuck=config.max_stuck_threads, call_timeout_s=config.turn_timeout_s
    )
    envs = (*GAMES, CODE) if case["code"] else GAMES
    player = GroupPlayer(
        stage=Stage(
            config=config,
            envs={env.id: env for env in envs},
            renderer=renderer,
            policy=policy,
            host=host,
            slots=EpisodeSlots(config.episodes),
        )
    )
    # As the learner grants them: groups that fill the episodes, and one more.
    held = asyncio.Semaphore(max(1, config.episodes // GROUP_SIZE) + 1)
    leaves = broken = nodes = 0

    async def group(index: int) -> None:
        nonlocal leaves, broken, nodes
        env_id = envs[index % len(envs)].id
        async with held:
            tree = await player.play(
                Assignment(assignment_id=index, env_id=env_id, seed=index, group_size=GROUP_SIZE)
            )
        leaves += tree.num_leaves
        nodes += tree.num_nodes
        broken += sum(cause != "" for cause in tree.leaf_causes)

    began = time.perf_counter()
    await asyncio.gather(*(group(index) for index in range(case["groups"])))
    seconds = time.perf_counter() - began
    await host.close()
    return {
        **case,
        "played": leaves,
        "broken": broken,
        "most_waiting_for_the_policy": policy.most_running,
        "episodes_per_second": round(leaves / seconds, 1),
        "turns_per_second": round(policy.turns / seconds, 1),
        "cpu_ms_per_turn": round(1000 * time.process_time() / policy.turns, 3),
        "peak_resident_mb": round(peak_resident_bytes() / 1e6, 1),
        "torch_imported": "torch" in sys.modules,
    }


def peak_resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def run_cases(model: Path) -> dict[str, Any]:
    """Every case in a fresh process."""
    load = os.getloadavg()[0]
    results = []
    for case in CASES:
        command = [
            sys.executable,
            "-m",
            "benchmarks.actors",
            "--model",
            str(model),
            "--case",
            json.dumps(case),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), file=sys.stderr)
    at_64 = max(r["peak_resident_mb"] for r in results if r["episodes"] == 64)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": round(load, 1),
        "python": sys.version.split()[0],
        "cases": results,
        "memory_limit_mb": MEMORY_LIMIT_MB,
        "within_memory_limit_at_64_episodes": at_64 < MEMORY_LIMIT_MB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=builtin_folder("smollm2-135m-instruct"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(asyncio.run(play(json.loads(arguments.case), arguments.model))))
        return
    text = json.dumps(run_cases(arguments.model), indent=2)
    print(text)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
