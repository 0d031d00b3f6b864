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

from trieline.launcher.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
INPUTS = Path(__file__).parent / "inputs"
ONE_ENV = Path(__file__).with_name("one_env.toml")
DEADLINE_S = 240.0
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
    done = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    return Ran(status=done.returncode, out=done.stdout, err=done.stderr)


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
    return [record for record in folder.read_metrics() if "loss/policy" in record]


def left_behind(mark: str) -> list[str]:
    """Processes that run with `mark` in their environment."""
    return [
        f"{process.pid} {process.info['name']}"
        for process in psutil.process_iter(["environ", "name"])
        if (process.info["environ"] or {}).get(MARK) == mark
    ]
