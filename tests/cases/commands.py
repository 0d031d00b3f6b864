"""`trieline` as a user runs it: in a process of its own, in some folder."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from trieline.launcher.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
INPUTS = Path(__file__).parent / "inputs"
ONE_ENV = Path(__file__).with_name("one_env.toml")
DEADLINE_S = 200.0
STOP_S = 60.0
# What was told to end may still be on its way.
LEAVE_S = 20.0
MARK = "TRIELINE_CASE"
"""An environment variable that everything carries that a command started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command did. `said` is all that it wrote, in one line."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        # Lines are broken for terminals, in the middle of a sentence.
        return " ".join((self.out + self.err).split())

    def expect(self, status: int) -> "Ran":
        """Itself, if it ended with `status`, and never with a traceback."""
        assert self.status == status, self.out + self.err
        assert "Traceback" not in self.out + self.err
        return self


def trieline(*arguments: str, cwd: Path, within: Sequence[str] = (), **environment: str) -> Ran:
    """Run one command to its end; `within` comes before it, as `bwrap ... --` does."""
    command = [*within, sys.executable, "-m", "trieline", *arguments]
    # A wide terminal, so that a table is not cut.
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    with subprocess.Popen(
        command, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            # It stops what it started.
            process.terminate()
            out, err = process.communicate(timeout=STOP_S)
            pytest.fail(f"still going after {DEADLINE_S:g} s:\n{out}{err}")
    return Ran(status=process.returncode, out=out, err=err)


def settings(**values: object) -> list[str]:
    """`--set` options, with `__` for each dot."""
    return [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]


def run_of(ran: Ran) -> RunFolder:
    """The run folder that a command named."""
    found = re.search(r"run folder: (.+)", ran.out)
    assert found, ran.out + ran.err
    return RunFolder(Path(found[1]))


def steps_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The records of a run's training steps."""
    return [record for record in folder.read_metrics() if "batch/trees" in record]


def left_behind(mark: str) -> list[psutil.Process]:
    """Processes that go on running with `mark` in their environment."""
    marked = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get(MARK) == mark]
    _, running = psutil.wait_procs(marked, timeout=LEAVE_S)
    return list(running)
