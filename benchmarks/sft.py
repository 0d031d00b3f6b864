"""`trieline sft` on conversations that share their beginnings, against the same conversations one by one.

    python -m benchmarks.sft [--trees 32] [--forks 8] [--shared 3] [--epochs 1]

Each tree is a chat about programming: `--shared` tasks of `trieline/PythonFunction-v0` with their solutions,
then `--forks` conversations that go on with a task each. Both sides fine-tune SmolLM2-135M-Instruct on the
same file with the same settings; one is the command as it is, the other the same learner with a trie that
merges nothing (all sequences in packed rows without padding). Compared are the loss of every step and the
seconds of all forward and backward passes without the first step's; what may be gained is L/N. Written to
`benchmarks/results/sft.json` and `.png`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.loads import separate_rows
from benchmarks.train_step import machine
from trieline.envs.registry import make_env

RESULTS = Path(__file__).parent / "results" / "sft.json"
ENV_ID = "trieline/PythonFunction-v0"


def write_conversations(path: Path, options: argparse.Namespace) -> None:
    """A file of `--trees` times `--forks` conversations."""
    rng = np.random.default_rng(0)
    env: Any = make_env(ENV_ID)

    def exchange() -> list[dict[str, str]]:
        observation, _ = env.reset(seed=int(rng.integers(2**30)), options={"level": int(rng.integers(2))})
        solution = env.get_wrapper_attr("solution")()
        return [{"role": "user", "content": observation}, {"role": "assistant", "content": solution}]

    lines = []
    for _ in range(options.trees):
        shared = [message for _ in range(options.shared) for message in exchange()]
        lines += [json.dumps({"messages": [*shared, *exchange()]}) for _ in range(options.forks)]
    env.close()
    path.write_text("\n".join(lines) + "\n")


def command_of(file: Path, runs: Path, options: argparse.Namespace) -> list[str]:
    settings = {"run.folder": runs, "learner.max_tokens": options.max_tokens}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["sft", str(file), "--epochs", str(options.epochs), *flags]


def run_side(side: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One fine-tuning run in processes of its own, and its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = command_of(file, Path(scratch), options)
        if side == "tries":
            command = [sys.executable, "-m", "trieline", *arguments]
        else:
            command = [sys.executable, "-m", "benchmarks.sft", "--one-by-one", json.dumps(arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
        (metrics,) = Path(scratch).glob("*/metrics.jsonl")
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record for record in records if "time/forward_backward" in record]
    if len(steps) < 2:
        sys.exit(
            f"expected at least 2 steps, the first of which is not counted, got {len(steps)}: more --trees"
        )
    return {
        "losses": [record["loss/policy"] for record in steps],
        "seconds_of_steps": [record["time/forward_backward"] for record in steps],
        "seconds": sum(record["time/forward_backward"] for record in steps[1:]),
        "unique_tokens": sum(record["batch/trie_tokens"] for record in steps[1:]),
        "sequence_tokens": sum(record["batch/sequence_tokens"] for record in steps[1:]),
    }


def run_one_by_one(arguments: list[str]) -> None:
    """`trieline sft`, its learner in this process and without a merge."""
    from trieline.command_line import main as trieline
    from trieline.launcher import sft_run
    from trieline.launcher.learner_program import run_learner_program
    from trieline.learner.batch import groups, pack

    def run_here(config: Any, folder: Any, *, resume: bool) -> int:
        return run_learner_program(config, folder, resume=resume)

    with (
        mock.patch.object(groups, "build_trie", separate_rows),
        mock.patch.object(pack, "build_trie", separate_rows),
        mock.patch.object(sft_run, "run_sft", run_here),
    ):
        sys.exit(trieline(arguments))


def plot(sides: dict[str, dict[str, Any]], path: Path) -> None:
    """The loss of both sides by step, where the lines should be one, and by seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_time) = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for (side, figures), style in zip(sides.items(), ("-", ":"), strict=True):
        losses = figures["losses"]
        by_step.plot(range(1, len(losses) + 1), losses, style, label=side, linewidth=2)
        by_time.plot(np.cumsum(figures["seconds_of_steps"]), losses, style, label=side, linewidth=2)
    by_step.set(xlabel="step", ylabel="loss, nats a token")
    by_time.set(xlabel="seconds of forward and backward")
    by_time.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trees", type=int, default=32)
    parser.add_argument("--forks", type=int, default=8, help="conversations of a tree")
    parser.add_argument("--shared", type=int, default=3, help="exchanges that they begin with")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--one-by-one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_by_one:
        run_one_by_one(json.loads(options.one_by_one))
        return
    about = machine()
    print(about)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "chats.jsonl"
        write_conversations(file, options)
        sides = {side: run_side(side, file, options) for side in ("tries", "one by one")}
    tries, rows = sides["tries"], sides["one by one"]
    ratio = tries["sequence_tokens"] / tries["unique_tokens"]
    speed_up = rows["seconds"] / tries["seconds"]
    apart = max(abs(a - b) for a, b in zip(tries["losses"], rows["losses"], strict=True))
    for side, figures in sides.items():
        print(
            f"{side:10} {figures['unique_tokens']:.0f} tokens computed in {figures['seconds']:.1f} s, loss "
            f"{figures['losses'][0]:.4f} to {figures['losses'][-1]:.4f} in {len(figures['losses'])} steps"
        )
    print(
        f"L/N {ratio:.2f}: {speed_up:.2f} times as fast, {speed_up / ratio:.0%} of L/N; "
        f"losses of a step at most {apart:.1e} apart"
    )
    result = {
        "machine": about,
        "sides": sides,
        "ratio": ratio,
        "speed_up": speed_up,
        "share_of_ratio": speed_up / ratio,
        "largest_difference_of_losses": apart,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    plot(sides, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
