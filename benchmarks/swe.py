"""Instances an hour that are graded: `trieline bench swe` beside the official harness of SWE-bench.

    python -m venv swebench && swebench/bin/pip install swebench==5.0.2
    trieline tasks make --recipe mini --output mini
    trieline images build --tasks mini/tasks.jsonl --checkouts mini/checkouts
    scripts/with_docker.sh python -m benchmarks.swe --data mini/tasks.jsonl \
        --swebench-python swebench/bin/python [--count 10] [--rounds 3] [--workers 1 2 4]

Both sides grade the gold patches of the same rows, in containers of the same images of the same engine, by
their own commands, one after the other and in an order that is turned around with each round. The official
harness ends each container with `docker stop`, which its process 1 does not heed, so that the engine waits 15
seconds and kills it. The third side is the same harness with a `docker` on its path that makes `stop` a
`kill`: what is left is the work.

Seconds are the whole command less those of the same command when there is nothing to be graded (the start of
Python, which costs the official one more). `tests` are the seconds in which the tests themselves ran, all
together, as each side counts them: the official run also applies the test patch in them. In the end both
sides grade patches that mend nothing, too. Verdicts that differ are named: the official harness runs tests as
a root with capabilities, for whom no file is unreadable; some tests expect one that is.

Written to `benchmarks/results/swe.json`, with the load of the machine before: other programs make both sides
slower.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trieline.envs.sandbox.docker import engine
from trieline.envs.swe.repository_task import RepositoryTask, row_of
from trieline.envs.swe.rows import read_rows
from trieline.envs.swe.workspaces import image_of
from trieline.launcher.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "swe.json"
SIDES = ("trieline", "swebench", "swebench, killed")
RUN_SECONDS = 3600.0
GET_SWEBENCH = "python -m venv swebench && swebench/bin/pip install swebench==5.0.2"
TEST_SECONDS = re.compile(r"Test runtime: ([\d_.]+) seconds")
HARMLESS = """\
diff --git a/a_note.txt b/a_note.txt
new file mode 100644
--- /dev/null
+++ b/a_note.txt
@@ -0,0 +1 @@
+Nothing is mended by this.
"""
KILLING_DOCKER = """\
#!/bin/sh
if [ "$1" = stop ]; then shift 2; exec {docker} kill "$@"; fi
exec {docker} "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One command of one side."""

    seconds: float
    test_seconds: float
    resolved: list[str]
    unresolved: list[str]
    others: list[str]
    """Ids without a verdict."""


class Bench:
    """The rows, and the commands of the sides on them."""

    def __init__(self, tasks: Sequence[RepositoryTask], swebench_python: Path, folder: Path) -> None:
        self.ids = [task.instance_id for task in tasks]
        self._python = swebench_python
        self._folder = folder
        self._rows = folder / "rows.jsonl"
        self._rows.write_text("".join(json.dumps(row_of(task)) + "\n" for task in tasks))
        self._number = 0
        self._killing = folder / "bin"
        self._killing.mkdir()
        (self._killing / "docker").write_text(KILLING_DOCKER.format(docker=shutil.which("docker")))
        (self._killing / "docker").chmod(0o755)

    def predictions(self, name: str, patch: str) -> Path:
        """A file in which all rows have this patch."""
        path = self._folder / f"{name}.jsonl"
        records = [{"instance_id": i, "model_name_or_path": name, "model_patch": patch} for i in self.ids]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    def run(self, side: str, predictions: str | Path, workers: int) -> Run:
        """Grade them in a folder of its own."""
        self._number += 1
        folder = self._folder / f"run-{self._number}"
        folder.mkdir()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if side == "trieline":
            policy = predictions if predictions == "gold" else f"replay:{predictions}"
            command = [sys.executable, "-m", "trieline", "bench", "swe", "--data", str(self._rows)]
            command += ["--backend", "docker", "--policy", str(policy), "--output", str(folder)]
            command += ["--workers", str(workers)]
            where = Path(__file__).parents[1]
        else:
            command = [str(self._python), "-m", "swebench.harness.run_evaluation", "-d", str(self._rows)]
            command += ["-p", str(predictions), "--max_workers", str(workers), "-id", "trieline"]
            where = folder
            if side == "swebench, killed":
                environment["PATH"] = f"{self._killing}:{environment['PATH']}"
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=where, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{side} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return self._read(folder, seconds)

    def _read(self, folder: Path, seconds: float) -> Run:
        (path,) = folder.glob("*.trieline.json")
        report = json.loads(path.read_text())
        resolved, unresolved = sorted(report["resolved_ids"]), sorted(report["unresolved_ids"])
        logs = "\n".join(p.read_text() for p in folder.glob("logs/run_evaluation/*/*/*/run_instance.log"))
        test_seconds = sum(float(text.replace("_", "")) for text in TEST_SECONDS.findall(logs))
        for grade in folder.glob("logs/run_evaluation/*/*/*/grade.json"):
            test_seconds += json.loads(grade.read_text())["seconds"]
        others = sorted(set(self.ids) - {*resolved, *unresolved})
        return Run(
            seconds=seconds,
            test_seconds=test_seconds,
            resolved=resolved,
            unresolved=unresolved,
            others=others,
        )


def measure(bench: Bench, workers: Sequence[int], rounds: int) -> dict[str, Any]:
    """Figures by side and number of workers, in seconds: one a round."""
    nothing = bench.predictions("nothing", "")
    # The reading of rows and the import of what is used; nothing in it depends on the number of workers.
    starts = {side: min(bench.run(side, nothing, 1).seconds for _ in range(2)) for side in SIDES}
    figures: dict[str, Any] = {side: {"start_seconds": round(starts[side], 2)} for side in SIDES}
    for number in range(rounds):
        for count in workers:
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                run = bench.run(side, "gold", count)
                figures[side]["resolved"] = run.resolved
                kept = figures[side].setdefault(f"workers {count}", {"seconds": [], "test_seconds": []})
                kept["seconds"].append(round(run.seconds - starts[side], 2))
                kept["test_seconds"].append(round(run.test_seconds, 2))
                print(f"round {number + 1}, workers {count}, {side}: {run.seconds:.1f} s", flush=True)
    for count in workers:
        for side in SIDES:
            kept = figures[side][f"workers {count}"]
            per_hour = 3600 * len(bench.ids) / statistics.median(kept["seconds"])
            kept["instances_per_hour"] = round(per_hour)
    return figures


def differing_verdicts(bench: Bench, figures: dict[str, Any]) -> list[str]:
    """Of the gold patches, and of ones that mend nothing: ids, and what kind of patch."""
    harmless = bench.predictions("harmless", HARMLESS)
    ours, theirs = (bench.run(side, harmless, 2) for side in ("trieline", "swebench, killed"))
    gold = set(figures["trieline"]["resolved"]) ^ set(figures["swebench"]["resolved"])
    idle = {*ours.resolved, *ours.others} ^ {*theirs.resolved, *theirs.others}
    return sorted([f"{i} (gold)" for i in gold] + [f"{i} (harmless)" for i in idle])


def table(figures: dict[str, Any], workers: Sequence[int]) -> str:
    """In Markdown."""
    lines = [
        "| workers | " + " | ".join(SIDES) + " | ratio | ratio, killed |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in workers:
        rates = [figures[side][f"workers {count}"]["instances_per_hour"] for side in SIDES]
        ratios = [f"{rates[0] / rate:.2f}" for rate in rates[1:]]
        lines.append(f"| {count} | " + " | ".join([*(f"{rate:,}" for rate in rates), *ratios]) + " |")
    return "\n".join(lines)


def swebench_version(python: Path) -> str:
    """Exits with what to do if it is not there."""
    code = "import importlib.metadata; print(importlib.metadata.version('swebench'))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            f"--swebench-python: expected a Python with swebench, got {python}. To get one: {GET_SWEBENCH}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="rows with images that the engine has")
    parser.add_argument("--swebench-python", type=Path, required=True, help=f"to get one: {GET_SWEBENCH}")
    parser.add_argument("--count", type=int, default=10, help="of rows, at equal distances in the file")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    version = swebench_version(options.swebench_python)
    rows = read_rows(options.data)
    tasks = rows[:: max(1, len(rows) // options.count)][: options.count]
    if absent := [image_of(task) for task in tasks if not engine().has_image(image_of(task))]:
        sys.exit(f"expected images, found no {absent}: trieline images build --tasks {options.data} ...")
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "load_before": round(os.getloadavg()[0], 1),
        "swebench": version,
        "engine": engine().api.version()["Version"],
        "instances": [task.instance_id for task in tasks],
    }
    with tempfile.TemporaryDirectory() as folder:
        # As it is called, not what it links to: a virtual environment is known by its path.
        bench = Bench(tasks, options.swebench_python.absolute(), Path(folder))
        results["sides"] = measure(bench, options.workers, options.rounds)
        results["verdicts_differ"] = differing_verdicts(bench, results["sides"])
    results["load_after"] = round(os.getloadavg()[0], 1)
    print(
        f"{results['machine']['cpu']}, {results['machine']['usable_cores']} cores, load before "
        f"{results['load_before']} and after {results['load_after']}; swebench {version}, "
        f"{len(tasks)} instances, median of {options.rounds} rounds; instances an hour:"
    )
    print(table(results["sides"], options.workers))
    print(f"verdicts that differ: {', '.join(results['verdicts_differ']) or 'none'}")
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
