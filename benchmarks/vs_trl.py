"""Trieline against TRL's GRPO: seconds and sampled tokens to the same held-out success.

    python -m benchmarks.vs_trl [--seeds 0 1 2] [--steps 10] [--every 2] [--target 0.4] [--sides trl trieline]

Needs TRL (`pip install trl==1.16.0`) and a sandbox. Both sides start from the same pretrained
SmolLM2-135M-Instruct and get the same tasks (one-digit sums, sums and differences up to 20, one-line Python
functions; one turn each), the same prompts, rewards and limits (40 new tokens), 8 tasks of 8 rollouts a step,
the same machine and all of its cores. `trieline train` runs its real processes; TRL runs `GRPOTrainer` in one
process, with `generate` of transformers, as it does where vLLM has no GPU.

Each side has its own settings, the best of a small search (`--search`): learning rate, and for TRL also the
size of a micro-batch; both keep float32 weights, and multiply in bfloat16 if the CPU has instructions for it.
A candidate trains `--search-steps`
steps on a seed that is not used again; the one with the largest rise of held-out success per second wins.

Every `--every` steps the policy is evaluated on held-out tasks (100 an environment, sampled at temperature
1) by the same program, in time that counts for neither side. Seconds and tokens to the target are
interpolated between two evaluations. Results are added to `benchmarks/results/vs_trl.json` run by run, with
a picture beside it; what is there already for a seed and side is run again.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from benchmarks.train_step import machine
from trieline.kernels.cpu.flags import has_bfloat16
from trieline.learner.model_folder.model_source import prepare_model

RESULTS = Path(__file__).parent / "results" / "vs_trl.json"
MODEL = "builtin:smollm2-135m-instruct"
SYSTEM_PROMPT = "You are a helpful assistant."
ENVS: dict[str, list[int]] = {"trieline/Arithmetic-v0": [0, 1], "trieline/PythonFunction-v0": [0]}
"""The levels of each, all open from the start."""
MAX_TOKENS = 40
TASKS, ROLLOUTS = 8, 8
SEARCH_SEED = 1000
SEARCH: dict[str, list[dict[str, Any]]] = {
    "trl": [
        {"lr": 1e-5, "micro_batch": 16},
        {"lr": 3e-5, "micro_batch": 16},
        {"lr": 3e-5, "micro_batch": 32},
    ],
    "trieline": [{"lr": 1e-5}, {"lr": 3e-5}],
}

Curve = list[dict[str, float]]
"""Per evaluation: step, seconds and sampled tokens before it, held-out success."""


def write_config(folder: Path, settings: dict[str, Any], options: argparse.Namespace, seed: int) -> Path:
    """The config of Trieline's run, which is also that of every evaluation."""
    config = {
        "run": {"name": "vs-trl", "folder": str(folder), "seed": seed},
        "model": {"path": MODEL},
        "envs": [
            {
                "id": env_id,
                "episode": {"max_turns": 1, "max_tokens": MAX_TOKENS},
                "curriculum": {"levels": levels, "open_levels": len(levels)},
            }
            for env_id, levels in ENVS.items()
        ],
        "learner": {
            "steps": options.steps,
            "trees_per_step": TASKS,
            "group_size": ROLLOUTS,
            "max_staleness": 0,
            "objective": {"advantage": "group", "scale_rewards": "group", "loss": "ppo_clip"},
            "optimizer": {"lr": settings["lr"], "schedule": "linear", "final_lr_fraction": 0.1},
        },
        "evaluation": {"every": options.every, "episodes": options.episodes},
    }
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config))
    return path


def train_trieline(settings: dict[str, Any], options: argparse.Namespace, seed: int) -> Curve:
    with tempfile.TemporaryDirectory() as scratch:
        config = write_config(Path(scratch), settings, options, seed)
        command = [sys.executable, "-m", "trieline", "train", "--config", str(config)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        (metrics,) = Path(scratch).glob("*/metrics.jsonl")
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    curve: Curve = []
    seconds = tokens = 0.0
    for record in records:
        seconds += record.get("time/step", 0.0)
        tokens += record.get("tokens/sampled", 0.0)
        if "eval/mean" in record:
            curve.append(
                {"step": record["step"], "seconds": seconds, "tokens": tokens, "success": record["eval/mean"]}
            )
    return curve


def train_trl(settings: dict[str, Any], options: argparse.Namespace, seed: int) -> Curve:
    with tempfile.TemporaryDirectory() as scratch:
        given = {"settings": settings, "steps": options.steps, "every": options.every, "seed": seed}
        command = [sys.executable, "-m", "benchmarks.vs_trl", "--train-trl", json.dumps(given), scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
        points: Curve = json.loads((Path(scratch) / "curve.json").read_text())
        config = write_config(Path(scratch), {"lr": 1e-5}, options, seed)
        for point in points:
            point["success"] = held_out_success(Path(scratch) / f"step_{point['step']}", config)
    return points


def held_out_success(model: Path, config: Path) -> float:
    """What a policy server that serves `model` is evaluated to."""
    flags = ["--config", str(config), "--set", f"model.path={model}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "trieline", "policy-server", *flags], stdout=subprocess.DEVNULL
    )
    try:
        report = model / "eval.json"
        subprocess.run(
            [sys.executable, "-m", "trieline", "eval", *flags, "--json", str(report)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return float(np.mean([env["mean_return"] for env in json.loads(report.read_text())["envs"]]))
    finally:
        server.terminate()
        server.wait(30)


def run_trl(given: dict[str, Any], folder: Path) -> None:
    """In a process of its own: train with TRL, leave the policy every few steps, and what they took."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from trieline.envs.registry import make_env

    settings, steps, every, seed = (given[name] for name in ("settings", "steps", "every", "seed"))
    source = prepare_model(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        for task in range(TASKS):
            env_id = list(ENVS)[task % len(ENVS)]
            level, task_seed = int(rng.choice(ENVS[env_id])), int(rng.integers(2**30))
            env = make_env(env_id, split="train")
            observation, _ = env.reset(seed=task_seed, options={"level": level})
            env.close()
            messages = [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": observation},
            ]
            rows.append({"prompt": messages, "env_id": env_id, "level": level, "task_seed": task_seed})

    def play(env_id: str, level: int, task_seed: int, reply: str) -> float:
        env = make_env(env_id, split="train")
        try:
            env.reset(seed=task_seed, options={"level": level})
            return float(env.step(reply)[1])
        finally:
            env.close()

    threads = ThreadPoolExecutor(16)

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        replies = [completion[0]["content"] for completion in completions]
        return list(threads.map(play, columns["env_id"], columns["level"], columns["task_seed"], replies))

    points: Curve = []

    class Watch(TrainerCallback):
        """Stops the clock while the policy is written."""

        def __init__(self) -> None:
            self.seconds, self.began = 0.0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.seconds += time.perf_counter() - self.began
            if state.global_step % every == 0 or state.global_step == steps:
                self.keep(state.global_step)

        def keep(self, step: int) -> None:
            model.save_pretrained(folder / f"step_{step}")
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                if (source / name).exists():
                    shutil.copy(source / name, folder / f"step_{step}" / name)
            points.append({"step": step, "seconds": self.seconds, "tokens": float(sampled[0])})

    sampled = [0]

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        """Counts sampled tokens."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            sampled[0] += int(output["completion_mask"].sum())
            return output

    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        # Autocast: weights in bfloat16 would lose updates of these sizes, below half of their last place.
        bf16=has_bfloat16(),
        learning_rate=settings["lr"],
        lr_scheduler_type="linear",
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=TASKS * ROLLOUTS // settings["micro_batch"],
        num_generations=ROLLOUTS,
        max_completion_length=MAX_TOKENS,
        max_steps=steps,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        epsilon_high=0.28,
        scale_rewards="group",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        seed=seed,
    )
    watch = Watch()
    trainer = Trainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    watch.keep(0)
    trainer.train()
    (folder / "curve.json").write_text(json.dumps(points))


TRAIN = {"trl": train_trl, "trieline": train_trieline}


def reached(curve: Curve, target: float, what: str) -> float | None:
    """`what` where the line through the evaluations first meets `target`; None: it never does."""
    for before, after in itertools.pairwise(curve):
        if after["success"] >= target:
            share = (target - before["success"]) / (after["success"] - before["success"])
            return before[what] + max(share, 0.0) * (after[what] - before[what])
    return None


@contextmanager
def kept_results() -> Iterator[dict[str, Any]]:
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    yield found
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def search(options: argparse.Namespace) -> None:
    """Find each side's best settings and keep them."""
    short = argparse.Namespace(
        **vars(options) | {"steps": options.search_steps, "every": options.search_steps}
    )
    for side in options.sides:
        tried = []
        for settings in SEARCH[side]:
            curve = TRAIN[side](settings, short, SEARCH_SEED)
            rise = curve[-1]["success"] - curve[0]["success"]
            tried.append(
                settings | {"rise": rise, "seconds": curve[-1]["seconds"], "tokens": curve[-1]["tokens"]}
            )
            print(f"search {side:8}", tried[-1], flush=True)
        best = max(range(len(tried)), key=lambda i: tried[i]["rise"] / tried[i]["seconds"])
        with kept_results() as found:
            found.setdefault("search", {})[side] = {"tried": tried, "best": SEARCH[side][best]}


def settings_of(side: str, found: dict[str, Any]) -> dict[str, Any]:
    if side not in found.get("search", {}):
        sys.exit(f"no settings for {side} yet: run with --search first")
    settings: dict[str, Any] = found["search"][side]["best"]
    return settings


def summarise(found: dict[str, Any], target: float) -> None:
    summary: dict[str, Any] = {"target": target}
    for what in ("seconds", "tokens"):
        to_target = {
            side: {seed: reached(curve, target, what) for seed, curve in curves.items()}
            for side, curves in found["curves"].items()
        }
        summary[what] = to_target
        both = set(to_target.get("trl", {})) & set(to_target.get("trieline", {}))
        pairs = [(to_target["trl"][seed], to_target["trieline"][seed]) for seed in sorted(both)]
        ratios = [a / b for a, b in pairs if a is not None and b is not None]
        if ratios:
            summary[f"{what}_ratios"] = ratios
        print(f"{what} to {target}:", to_target, "ratios", [round(r, 2) for r in ratios])
    found["summary"] = summary


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, what in zip(axes, ("seconds", "tokens"), strict=True):
        for (side, curves), colour in zip(sorted(found["curves"].items()), ("C0", "C1"), strict=False):
            for number, curve in enumerate(curves.values()):
                axis.plot(
                    [point[what] for point in curve],
                    [point["success"] for point in curve],
                    color=colour,
                    marker=".",
                    label={"trl": "TRL GRPO", "trieline": "Trieline"}[side] if number == 0 else None,
                )
        axis.axhline(found["summary"]["target"], color="grey", linewidth=0.5)
        axis.set(xlabel={"seconds": "seconds", "tokens": "sampled tokens"}[what])
    axes[0].set(ylabel="held-out success")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=["trl", "trieline"], choices=["trl", "trieline"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--target", type=float, default=0.4)
    parser.add_argument("--search", action="store_true", help="look for each side's best settings first")
    parser.add_argument("--search-steps", type=int, default=6)
    parser.add_argument("--train-trl", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_trl:
        run_trl(json.loads(options.train_trl[0]), Path(options.train_trl[1]))
        return
    print(machine())
    if options.search:
        search(options)
    for seed in options.seeds:
        for side in options.sides:
            with kept_results() as found:
                settings = settings_of(side, found)
            curve = TRAIN[side](settings, options, seed)
            print(f"seed {seed} {side:8}", [(round(p["seconds"]), p["success"]) for p in curve], flush=True)
            with kept_results() as found:
                found["machine"] = machine() | {"cores": os.cpu_count()}
                found.setdefault("curves", {}).setdefault(side, {})[str(seed)] = curve
                summarise(found, options.target)
                plot(found, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
