"""A `trieline train` whose programs are killed, and what its folder and this machine say afterwards."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from benchmarks.engine_leftovers import EngineLeftovers
from benchmarks.held_sandbox import ENV_ID
from trieline.config import config_from_dict, config_to_dict, load_config
from trieline.learner.keeping.checkpoint import latest_checkpoint, read_state
from trieline.wire.journal import read_journal

ROOT = Path(__file__).parents[1]
Kind = Literal["plain", "docker", "warm-start", "agent"]
ALL = "all"
AGENT = "agent"
TARGETS = ("learner", "policy-server", "actor", "worker", "launcher", ALL)
MARK = "TRIELINE_KILL_NINE"
# Caches for later runs, which libraries keep among the temporary files.
KEPT_BY_OTHERS = ("torchinductor_", "matplotlib-")
SHARED_MEMORY = Path("/dev/shm")
SETTINGS = (
    "run.name=kill", "learner.steps=100000", "learner.trees_per_step=4", "learner.group_size=4",
    "learner.checkpoint_every=1", "evaluation.episodes=0", "actor.processes=2", "actor.episodes=16",
)  # fmt: skip
# Beside an environment without a sandbox: containers of a pool, and one for each episode.
SANDBOXED: list[dict[str, Any]] = [
    {
        "id": "trieline/PythonFunction-v0",
        "kwargs": {"backend": "docker"},
        "episode": {"max_turns": 1, "max_tokens": 8},
    },
    {
        "id": f"benchmarks.held_sandbox:{ENV_ID}",
        "episode": {"max_turns": 2, "max_tokens": 4},
        "curriculum": {"weight": 0.5},
    },
]
# A program for each episode, with the gateway in the worker.
PLAYED_BY_AGENT: dict[str, Any] = {
    "id": "trieline/GuessNumber-v0",
    "kwargs": {"lowest": 900},
    "episode": {"max_turns": 1, "max_tokens": 6},
    "agent": {"command": ["python", "-m", "benchmarks.asking_agent"]},
}
# A start on a busy machine, or a weight update that waits for a server that starts.
PROGRESS_S = 400.0
WARM_START_S = 1800.0
# Under the recipe's: it is to end some time after the last kill.
WARM_START_TARGET = 0.2
# The learner's checkpoint, and the farewell of the others.
END_S = 120.0


class RunEndedError(Exception):
    """A run that could have gone on did not."""


@dataclass
class Figures:
    """What the kills of one kind of program came to."""

    kind: Kind
    target: str
    kills: int = 0
    runs: int = 0
    steps: int = 0
    trees: int = 0
    lost: int = 0
    warm_start_steps: list[int] = field(default_factory=list)
    """That had been made when a program was killed in the warm start."""
    until_next_start: int = 0
    """Containers and images, at most, that were there when all programs of the run were dead."""
    twice: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.twice or self.left or self.ended)


class KilledRun:
    """One `trieline train`, resumed if its launcher is killed."""

    def __init__(self, scratch: Path, figures: Figures) -> None:
        self._scratch = scratch
        self._figures = figures
        self._temporary = scratch / "tmp"
        self._temporary.mkdir()
        plain = config_of(figures.kind, scratch / "runs")
        self._config = config_from_dict(plain)
        self._config_file = scratch / "config.toml"
        self._config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")
        self._mark = str(scratch)
        self._memory = _shared_memory()
        self._engine = EngineLeftovers() if figures.kind == "docker" else None
        self.start("--config", str(self._config_file))

    def start(self, *arguments: str) -> None:
        """With this checkout's packages, wherever the programs are started from."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with (self._scratch / "screen.txt").open("ab") as screen:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "trieline", "train", *arguments],
                stdout=screen,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    MARK: self._mark,
                    "TMPDIR": str(self._temporary),
                    "PYTHONPATH": os.pathsep.join(paths),
                },
            )

    @property
    def folder(self) -> Path | None:
        return next((self._scratch / "runs").glob("kill-*"), None)

    def steps(self) -> list[dict[str, float]]:
        """Records of the steps that the metrics hold."""
        return self._records("reward/mean")

    def wait_for_steps(self, count: int) -> None:
        warming = self._figures.kind == "warm-start" and not self.steps()
        limit_s = WARM_START_S if warming else PROGRESS_S
        self._wait(lambda: len(self.steps()) >= count, f"step {count}", limit_s)

    def kill(self, target: str, moment_s: float) -> None:
        """Kill a program of that kind `moment_s` after now, or as soon as there is one."""
        self._wait(lambda: any(self._pids(target)), f"a {target}", PROGRESS_S)
        time.sleep(moment_s)
        if self._in_warm_start():
            self._figures.warm_start_steps.append(len(self._records("warm_start/step")))
        killed_at = time.time()
        while not self._kill_now(target):  # an agent may have ended meanwhile
            self._wait(lambda: any(self._pids(target)), f"a {target}", PROGRESS_S)
        if target in ("launcher", ALL):
            self._start_again()
        self._wait(lambda: self._went_on(killed_at), "it went on", PROGRESS_S)

    def _kill_now(self, target: str) -> bool:
        """Whether there was one."""
        killed = False
        for pid in list(self._pids(target)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = True
            if target != ALL:
                break
        return killed

    def stop(self) -> None:
        self.launcher.send_signal(signal.SIGINT)
        try:
            status = self.launcher.wait(END_S)
        except subprocess.TimeoutExpired:
            status = -1
        if status != 130:
            msg = f"expected a run that is stopped to end with 130, got {status}: {self._screen()}"
            raise RunEndedError(msg)

    def close(self) -> None:
        """End what is left. Idempotent."""
        if self.launcher.poll() is None:
            self.launcher.terminate()
            try:
                self.launcher.wait(END_S)
            except subprocess.TimeoutExpired:
                self.launcher.kill()
                self.launcher.wait()
        for pid, _, _ in self._processes():
            os.kill(pid, signal.SIGKILL)

    def look_over(self) -> None:
        """Add to the figures what the folder and the machine say."""
        figures, steps = self._figures, self.steps()
        numbers: dict[str, list[int]] = {}
        assert self.folder is not None, "it made steps"
        for delivery in read_journal(self.folder / "journal"):
            numbers.setdefault(delivery.actor_id, []).append(delivery.sequence_number)
        figures.runs += 1
        figures.steps += len(steps)
        figures.trees += sum(map(len, numbers.values()))
        figures.lost += sum(
            max(found) + 1 - self._first(found) - len(set(found)) for found in numbers.values()
        )
        figures.twice += [
            f"{actor}: tree {number} is there {count} times"
            for actor, found in numbers.items()
            for number, count in Counter(found).items()
            if count > 1
        ]
        for name, records in (("step", steps), ("warm_start/step", self._records("warm_start/step"))):
            made = [int(record[name]) for record in records]
            if made != list(range(1, len(made) + 1)):
                figures.twice.append(f"expected every {name} once, got {made}")
        figures.twice += self._used_records(steps)
        _wait_until(lambda: not any(self._leftovers()), END_S / 4)
        figures.left += self._leftovers()

    def _first(self, found: list[int]) -> int:
        """The number of an actor's first tree for training: those of the warm start are before it."""
        return min(found) if self._figures.kind == "warm-start" else 0

    def _start_again(self) -> None:
        self.launcher.wait()
        _wait_until(lambda: not any(self._processes()), END_S)
        if left := [command for _, _, command in self._processes()]:
            msg = f"left by a killed launcher: {left}"
            raise RunEndedError(msg)
        if (engine := self._engine) is not None:
            _wait_until(lambda: not engine.running(), END_S / 4)
            self._figures.left += [f"{what}, without its owner" for what in engine.running()]
            self._figures.until_next_start = max(self._figures.until_next_start, len(engine.all()))
        if self.folder is None:
            self.start("--config", str(self._config_file))
        else:
            self.start("--resume", str(self.folder))

    def _went_on(self, since: float) -> bool:
        """Whether a step was made after that time, of the training or of the warm start."""
        records = [*self._records("reward/mean"), *self._records("warm_start/step")]
        return any(record["time"] > since for record in records)

    def _records(self, name: str) -> list[dict[str, float]]:
        """Those of the metrics that hold a figure of that name."""
        path = self.folder / "metrics.jsonl" if self.folder else None
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path and path.exists() else []
        return [record for line in lines if name in (record := json.loads(line))]

    def _in_warm_start(self) -> bool:
        checkpoint = self._checkpoint()
        over = checkpoint is not None and read_state(checkpoint).warm_started
        return self._figures.kind == "warm-start" and not over

    def _checkpoint(self) -> Path | None:
        return None if self.folder is None else latest_checkpoint(self.folder / "checkpoints")

    def _used_records(self, made: list[dict[str, float]]) -> Iterator[str]:
        checkpoint = self._checkpoint()
        if checkpoint is None:
            yield "expected a checkpoint, got none"
            return
        state = read_state(checkpoint)
        per_step = self._config.learner.trees_per_step
        steps = made[: state.step]
        least = sum(per_step + int(record["off_policy/too_old_trees"]) for record in steps)
        # A broken tree is a record; a task that was given up, since it was with actors that died, is none.
        most = least + sum(int(record["errored_trees"]) for record in steps)
        if not least <= state.records_taken <= most:
            took = f"{least}" if least == most else f"{least} to {most}"
            yield f"{state.step} steps took {took} records, their checkpoint says {state.records_taken}"

    def _leftovers(self) -> list[str]:
        checkpoints = self.folder / "checkpoints" if self.folder else self._scratch
        return [
            *(command for _, _, command in self._processes()),
            *(str(p) for p in self._temporary.iterdir() if not p.name.startswith(KEPT_BY_OTHERS)),
            *(path for path in _shared_memory() - self._memory if _is_orphan(Path(path))),
            *map(str, checkpoints.glob(".step_*")),
            *(self._engine.all() if self._engine is not None else ()),
        ]

    def _wait(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        _wait_until(lambda: self.launcher.poll() is not None or condition(), limit_s)
        if self.launcher.poll() is not None:
            msg = f"ended with {self.launcher.returncode} before {what}: {self._screen()}"
            raise RunEndedError(msg)
        if not condition():
            msg = f"waited {limit_s:g} s for {what}: {self._screen()}"
            raise RunEndedError(msg)

    def _screen(self) -> str:
        return (self._scratch / "screen.txt").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _pids(self, target: str) -> Iterator[int]:
        """The launcher comes first: it would start the others again."""
        if target in ("launcher", ALL):
            yield self.launcher.pid
        if target == ALL:
            yield from (pid for pid, _, _ in self._processes() if pid != self.launcher.pid)
        if target == AGENT:
            yield from (pid for pid, _, command in self._processes() if "benchmarks.asking_agent" in command)
        verb = "actor" if target == "worker" else target
        found = {pid: parent for pid, parent, command in self._processes() if f"trieline {verb} " in command}
        for pid, parent in found.items():
            if (parent in found) == (target == "worker"):
                yield pid

    def _processes(self) -> Iterator[tuple[int, int, str]]:
        """(process id, its parent's, command line) of all that the run started and that live."""
        for proc in Path("/proc").iterdir():
            if not proc.name.isdigit():
                continue
            try:
                environment = (proc / "environ").read_bytes().split(b"\0")
                command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = (proc / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if f"{MARK}={self._mark}".encode() in environment:
                yield int(proc.name), int(parent), command


def config_of(kind: Kind, folder: Path) -> dict[str, Any]:
    """Of the recipe `tiny`, small. Without an evaluation, every tree of an actor is one for training."""
    plain = config_to_dict(load_config(["tiny"], [*SETTINGS, f"run.folder={folder}"]))
    if kind == "warm-start":
        plain["learner"]["warm_start"]["target"] = WARM_START_TARGET
    else:
        del plain["learner"]["warm_start"]
    if kind == "docker":
        plain["envs"] = [*plain["envs"][:1], *SANDBOXED]
    if kind == "agent":
        plain["envs"] = [PLAYED_BY_AGENT]
    return plain


def _shared_memory() -> set[str]:
    return {str(path) for path in SHARED_MEMORY.glob("trieline-*")}


def _is_orphan(folder: Path) -> bool:
    """Whether nobody alive owns it: other runs may go on beside this one."""
    try:
        with (folder / "owner").open("rb") as owner:
            pid = owner.read(32).strip().decode()
            if pid:
                return not Path(f"/proc/{pid}").exists()
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return folder.exists()
    return True


def _wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
