"""What can be seen of a run from its folder: whether it goes on, who runs it, how far it is; no daemon.

A run goes on as long as its launcher, or a learner that was started by hand, holds its lock in the folder.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trieline.common.errors import LockError
from trieline.common.lock_holder import LockHolder, find_holder
from trieline.config import ConfigError
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.trackers.follower import read_sent, sent_file

LAUNCHER_LOCK = ".launcher.lock"
LEARNER_LOCK = ".learner.lock"
# Of `metrics.jsonl`: its last records. One has some kilobytes.
TAIL_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """One look at a run."""

    folder: RunFolder
    state: Literal["running", "starting", "finished", "stopped", "elsewhere"]
    """`elsewhere`: another machine runs it in this folder."""
    step: int
    steps: int | None
    """None: its configuration is none of this version."""
    figure: str
    """The newest reward, or loss of a run without rewards, with its name. Empty: there is none yet."""
    silent_s: float | None
    """Seconds since the newest record. None: there is none."""
    pid: int | None
    """Of what runs it, on this machine."""


def find_runner(folder: RunFolder) -> LockHolder | None:
    """The launcher of a run that goes on, else the learner that was started by hand; None: neither lives.

    Raises:
        LockError: another machine runs it.
    """
    return find_holder(folder.path / LAUNCHER_LOCK) or find_holder(folder.path / LEARNER_LOCK)


def read_state(folder: RunFolder) -> RunState:
    """Look at a run."""
    try:
        steps = folder.load_config().learner.steps
    except ConfigError:
        steps = None
    records = _last_records(folder.metrics)
    step = max((int(record.get("step", 0)) for record in records), default=0)
    pid, state = None, "finished" if steps is not None and step >= steps else "stopped"
    try:
        runner = find_runner(folder)
    except LockError:
        state = "elsewhere"
    else:
        if runner is not None:
            with closing(runner):
                pid, state = runner.pid, "running" if records else "starting"
    return RunState(
        folder=folder,
        state=state,  # type: ignore[arg-type]
        step=step,
        steps=steps,
        figure=_newest_figure(records),
        silent_s=max(0.0, time.time() - records[-1]["time"]) if records else None,
        pid=pid,
    )


def programs_of(pid: int) -> dict[str, int]:
    """The programs that a launcher has started, by the names of their logs."""
    found = {}
    for child in _children(pid):
        try:
            log = Path(f"/proc/{child}/fd/1").readlink()
        except OSError:
            continue
        if log.suffix == ".log":
            found[log.stem] = child
    return dict(sorted(found.items()))


def tracker_troubles(folder: RunFolder) -> Iterator[str]:
    """A line for each tracker that lacks something for a reason."""
    for name in folder.load_config().run.trackers:
        if trouble := read_sent(sent_file(folder, name)).trouble:
            yield f"{name}: {trouble}"


def runs_in(parent: Path) -> list[RunFolder]:
    """The run folders right below a folder, the oldest first."""
    found = [path for path in parent.glob("*/config.toml") if (path.parent / "logs").is_dir()]
    return [RunFolder(path.parent.resolve()) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def live_runs() -> list[RunFolder]:
    """The runs of this user's learners, wherever on this machine their folders are."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if process.stat().st_uid != os.getuid():
                continue
            arguments = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
            folder = _folder_of(arguments, process)
        except OSError:
            continue
        if folder is not None and (folder / "config.toml").is_file():
            found.add(folder.resolve())
    return [RunFolder(path) for path in sorted(found)]


def _folder_of(arguments: list[str], process: Path) -> Path | None:
    """Of a learner's command, the folder that it was told."""
    if "learner" not in arguments or "--run" not in arguments[:-1]:
        return None
    told = arguments[arguments.index("--run") + 1]
    return (process / "cwd").readlink() / told if told else None


def _children(pid: int) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                # The name, in parentheses, may hold anything; the parent is the second field after it.
                parent = (process / "stat").read_bytes().rpartition(b")")[2].split()[1]
            except (OSError, IndexError):
                continue
            if int(parent) == pid:
                yield int(process.name)


def _last_records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")[1 if start else 0 : -1]
    records = []
    for line in lines:
        # What a crash left of a line, and lines of others, tell nothing.
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("time"), int | float):
                records.append(record)
    return records


def _newest_figure(records: list[dict[str, Any]]) -> str:
    for name, said in (("reward/mean", "reward"), ("loss/policy", "loss")):
        for record in reversed(records):
            if isinstance(value := record.get(name), int | float):
                return f"{said} {value:.3g}"
    return ""
