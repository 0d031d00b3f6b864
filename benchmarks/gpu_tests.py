"""Tests in several processes at once, by pytest alone: those of kernels compile more than they compute.

    python -m benchmarks.gpu_tests [--jobs 12] [--output DIR] tests/kernels/gpu ...

Each process collects all of them and runs every `--jobs`-th, a part of them by itself; its log is
`tests-N.log` in `--output`. Fails if one of them does, or if none ran anything.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARE = "TRIELINE_TEST_SHARE"
"""Of a process: its number, from 0 on, a slash, and how many there are."""
NOTHING_COLLECTED = 5
PYTEST = ("-m", "pytest", "-v", "-rfE", "--tb=short", "-c", os.devnull, "--rootdir", ".")
OURS = ("-p", "no:cacheprovider", "-p", "benchmarks.gpu_tests")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """As a plugin of pytest: keep the share of this process."""
    number, count = map(int, os.environ[SHARE].split("/"))
    others = [item for place, item in enumerate(items) if place % count != number]
    items[:] = items[number::count]
    config.hook.pytest_deselected(items=others)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output: Path = options.output or Path(tempfile.mkdtemp(prefix="trieline-tests-"))
    logs = [output / f"tests-{number}.log" for number in range(options.jobs)]
    running = []
    for number, log in enumerate(logs):
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, *PYTEST, *OURS, *options.paths],
                cwd=ROOT,
                env=os.environ | {SHARE: f"{number}/{options.jobs}"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        running.append(process)
    statuses = [process.wait() for process in running]
    for log, status in zip(logs, statuses, strict=True):
        lines = log.read_text(errors="replace").splitlines()
        if status not in (0, NOTHING_COLLECTED):
            print("\n".join(lines[-40:]))
        print(f"{log.name}: exit status {status}, {lines[-1] if lines else 'nothing said'}")
    failed = [status for status in statuses if status not in (0, NOTHING_COLLECTED)]
    sys.exit(bool(failed) or 0 not in statuses)


if __name__ == "__main__":
    main()
