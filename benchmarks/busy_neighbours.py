"""How fast tokens are sampled beside programs that keep every core busy, by how OpenMP's threads wait.

    python -m benchmarks.busy_neighbours [--rounds 4] [--rows 32] [--tokens 10] [--dtype auto]

The engine samples from a model of SmolLM2's shape with random weights, in a process of its own for each side:

* `default`: all cores, and threads that spin for about 10 ms at each barrier, as OpenMP does left to itself;
* `brief`: all cores, and threads that spin for `SPIN_COUNT` (`trieline.launcher.core_sharing`), as those of
  Trieline's programs do;
* `left`: the same, on as many threads as the others leave cores (`trieline.kernels.cpu.threads`);
* `passive`: all cores, and threads that sleep at once;
* `one`: one thread.

A round lets each side sample alone and then beside one endless loop for each core, which this script starts
and ends, in sessions of their own as a desktop has them. Given are the medians over the rounds, and of each
side the ratio to its own speed alone, and to that of `default` alone. Written to
`benchmarks/results/busy_neighbours.json`, with the load of the machine before: other programs make
"alone" slower than it is.

With `--ahead` the sides and the loops take precedence over the other programs of the machine (Linux's
autogroups, as root), which makes a machine that is in use a better place to measure.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trieline.launcher.core_sharing import SPIN_COUNT
from trieline.launcher.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "busy_neighbours.json"
SIDES: dict[str, tuple[dict[str, str], int]] = {
    "default": ({}, 0),
    "brief": ({"GOMP_SPINCOUNT": str(SPIN_COUNT)}, 0),
    "left": ({"GOMP_SPINCOUNT": str(SPIN_COUNT), "LEFT_CORES": "1"}, 0),
    "passive": ({"OMP_WAIT_POLICY": "passive"}, 0),
    "one": ({}, 1),
}
"""Environment, and threads; 0: one for each core."""
AHEAD = "-14"
ENDLESS = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
"""As long as this script lives."""
SETTLE_S = 0.2
"""Until the scheduler has spread the endless loops over the cores."""


class Side:
    """A process that samples when it is told to."""

    def __init__(self, name: str, folder: str, options: argparse.Namespace) -> None:
        environment, threads = SIDES[name]
        numbers = (threads or len(os.sched_getaffinity(0)), options.rows, options.tokens)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.busy_neighbours", "--side", folder, options.dtype]
            + [str(number) for number in numbers],
            env=inherited | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._ahead = options.ahead
        self._answer()

    def __call__(self) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        with ahead(self._process, self._ahead):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def ahead(process: subprocess.Popen[Any], wanted: bool) -> Iterator[None]:
    autogroup = Path(f"/proc/{process.pid}/autogroup")
    if wanted:
        autogroup.write_text(AHEAD)
    try:
        yield
    finally:
        if wanted and process.poll() is None:
            autogroup.write_text("0")


@contextmanager
def neighbours(in_front: bool) -> Iterator[None]:
    with ExitStack() as running:
        for _ in os.sched_getaffinity(0):
            loop = subprocess.Popen([sys.executable, "-c", ENDLESS], start_new_session=True)
            running.callback(loop.wait)
            running.callback(loop.kill)
            running.enter_context(ahead(loop, in_front))
        time.sleep(SETTLE_S)
        yield


def sample(folder: str, dtype: str, threads: int, rows: int, tokens: int) -> None:
    """Sample once for each line of stdin, and print the speed."""
    import torch

    from benchmarks.policy_server import EngineSide, prompts_of

    class LookingSide(EngineSide):
        """The engine, that looks at the cores before each step."""

        def reset(self) -> None:
            super().reset()
            step = self._engine.step

            def looking() -> list[Finished]:
                cores.look()
                return step()

            self._engine.step = looking  # type: ignore[method-assign]

    from trieline.kernels.cpu.threads import LeftCores
    from trieline.learner.allocator import keep_freed_memory
    from trieline.learner.model.compute_dtype import choose_dtype
    from trieline.learner.policy_server.engine import Finished

    keep_freed_memory()
    cores = LeftCores(threads if "LEFT_CORES" in os.environ else 1)
    torch.set_num_threads(threads)
    engine = LookingSide(Path(folder), choose_dtype(dtype), rows, tokens)
    prompts = prompts_of("groups", rows, 49_152, 0)
    engine(prompts)
    print("ready", flush=True)
    for _ in sys.stdin:
        engine.reset()
        cores.rest()
        began = time.perf_counter()
        made = sum(map(len, engine(prompts)))
        print(made / (time.perf_counter() - began), flush=True)


def save_model(folder: str) -> None:
    from transformers import LlamaForCausalLM

    from trieline.learner.model_folder.shapes import SMOLLM2

    LlamaForCausalLM(SMOLLM2).save_pretrained(folder)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    speeds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in SIDES}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_sides:
        save_model(folder)
        sides = {name: Side(name, folder, options) for name in SIDES}
        for side in sides.values():
            open_sides.callback(side.close)
        for _ in range(options.rounds):
            for name, side in sides.items():
                speeds[name]["alone"].append(side())
            with neighbours(options.ahead):
                for name, side in sides.items():
                    speeds[name]["beside"].append(side())
    alone = statistics.median(speeds["default"]["alone"])
    return {
        name: {
            "tokens_per_s_alone": round(statistics.median(speed["alone"]), 1),
            "tokens_per_s_beside": round(statistics.median(speed["beside"]), 1),
            "alone_to_default_alone": round(statistics.median(speed["alone"]) / alone, 3),
            "beside_to_own_alone": round(
                statistics.median(speed["beside"]) / statistics.median(speed["alone"]), 3
            ),
            "beside_to_default_alone": round(statistics.median(speed["beside"]) / alone, 3),
            "rounds": {where: [round(one, 1) for one in made] for where, made in speed.items()},
        }
        for name, speed in speeds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        folder, dtype, *numbers = options.side
        sample(folder, dtype, *map(int, numbers))
        return
    load = os.getloadavg()[0]
    results = {"machine": describe_machine(), "load_before": round(load, 1), "options": vars(options)}
    results |= {"sides": measure(options)}
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
