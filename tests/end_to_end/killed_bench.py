"""`trieline bench swe` in processes of its own, killed at random moments and resumed, and what it leaves."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.cases.commands import MARK, ROOT, left_behind

DEADLINE_S = 1200.0
Victim = Literal["main", "group"]
"""The main process alone, or its whole process group."""
SPENT = {"seconds", "test_seconds"}
"""What no two runs have alike."""


@dataclass(kw_only=True)
class KilledBench:
    """One run of the command on a folder, in as many starts as it takes."""

    arguments: Sequence[str]
    """Of the command, without `--output` and `--resume`."""
    folder: Path
    """For everything: `out`, and `tmp` for temporary files."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    kills: int = 0
    kept: dict[Path, int] = field(default_factory=dict)
    """Grades that a kill has found, and when they were written."""

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def start(self) -> "subprocess.Popen[bytes]":
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "trieline", *self.arguments, "--output", str(self.output), "--resume"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), MARK: self.mark},
            stdout=(self.folder / "stdout").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self) -> float:
        """Run it to its end. Returns the seconds."""
        began = time.monotonic()
        process = self.start()
        assert process.wait(DEADLINE_S) == 0, (self.folder / "stdout").read_text()
        return time.monotonic() - began

    def kill(self, victim: Victim, after_s: float) -> bool:
        """Start it, and kill it after so many seconds. False if it had ended by then."""
        process = self.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(after_s) == 0, (self.folder / "stdout").read_text()
            return False
        self._kill(process, victim)
        return True

    def kill_when(self, victim: Victim, ripe: Callable[[], bool]) -> None:
        """Start it, and kill it as soon as `ripe` says so, which it does before the end."""
        process = self.start()
        while not ripe():
            assert process.poll() is None, (self.folder / "stdout").read_text()
            time.sleep(0.05)
        self._kill(process, victim)

    def _kill(self, process: "subprocess.Popen[bytes]", victim: Victim) -> None:
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        self.kills += 1
        self._expect_kept()

    def _expect_kept(self) -> None:
        """What was graded is there as it was."""
        found = {path: path.stat().st_mtime_ns for path in self.output.rglob("grade.json")}
        assert self.kept.items() <= found.items()
        self.kept = found

    def expect_nothing_left(self) -> None:
        """No process, no temporary file. A program that was told to end may take a moment."""
        assert left_behind(self.mark) == []
        left = [p.name for p in (self.folder / "tmp").iterdir() if not p.name.startswith("torchinductor_")]
        assert left == [], "beside torch's own cache"
        assert list(self.output.rglob(".*.new")) == []
        self._expect_kept()

    def reports(self) -> dict[str, Any]:
        """All that the run reports, without what it took."""
        paths = [self.output / "summary.json", *self.output.rglob("*.trieline.json")]
        found = {str(p.relative_to(self.output)): json.loads(p.read_bytes()) for p in paths}
        return {name: _without_spent(report) for name, report in found.items()}


def _without_spent(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_spent(inner) for key, inner in value.items() if key not in SPENT}
    return value


def killed_at_random(
    undisturbed: KilledBench, disturbed: KilledBench, *, kills: int, rng: random.Random
) -> list[str]:
    """Run one to its end and kill the other on its way, then compare. Returns what was done, a line each."""
    whole_s = undisturbed.finish()
    undisturbed.expect_nothing_left()
    said = [f"undisturbed: {whole_s:.1f} s"]
    for number in range(kills):
        victim: Victim = "group" if number % 2 else "main"
        # In the mean, all kills together come before the work is done.
        after_s = rng.uniform(0.0, 2 * whole_s / (kills + 1))
        hit = disturbed.kill(victim, after_s)
        said.append(f"{victim} after {after_s:.1f} s: {'killed' if hit else 'had ended'}")
    said.append(f"the rest: {disturbed.finish():.1f} s, {disturbed.kills} kills")
    disturbed.expect_nothing_left()
    assert disturbed.reports() == undisturbed.reports()
    assert disturbed.kills > kills // 2, said
    return said
