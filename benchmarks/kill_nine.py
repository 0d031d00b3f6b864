"""Every program of a run killed again and again (`kill -9`), at random moments, while it trains.

    python benchmarks/kill_nine.py [--kills 10] [--seed 0] [--targets learner worker ...]

Runs of the recipe `tiny` without its warm start, through `trieline train`. After the last kill of a run it
makes two more steps and is stopped; then its folder and this machine are looked over:

* lost: trees that an actor numbered before one that the journal holds, and that the journal lacks. The few
  trees of the evaluation before the first step are numbered and not journaled: `evaluated` bounds them.
* twice: trees that the journal holds more than once; steps that the metrics hold more than once or not at
  all; records that the last checkpoint has used up, beside those that its steps took.
* left: processes, temporary folders, shared memory and unfinished checkpoints of the run.
* ended: runs that did not go on, with the end of what they showed.

Written to `benchmarks/results/kill_nine.json`. A run tolerates four deaths of one program within a time, so
that a run is begun anew after four kills.
"""

import argparse
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomli_w

from trieline.config import config_to_dict, load_config
from trieline.learner.keeping.checkpoint import latest_checkpoint, read_state
from trieline.wire.journal import read_journal

RESULTS = Path(__file__).parent / "results" / "kill_nine.json"
TARGETS = ("learner", "policy-server", "actor", "worker", "launcher")
KILLS_PER_RUN = 4
MARK = "TRIELINE_KILL_NINE"
# Caches for later runs, which libraries keep among the temporary files.
KEPT_BY_OTHERS = ("torchinductor_", "matplotlib-")
SHARED_MEMORY = Path("/dev/shm")
SETTINGS = (
    "run.name=kill", "learner.steps=100000", "learner.trees_per_step=4", "learner.group_size=4",
    "learner.checkpoint_every=1", "evaluation.episodes=1", "actor.processes=2", "actor.episodes=16",
)  # fmt: skip
# A start on a busy machine, or a weight update that waits for a server that starts.
PROGRESS_S = 240.0
# The learner's checkpoint, and the farewell of the others.
END_S = 120.0
FIRST_MOMENT_S = 30.0
NEXT_MOMENT_S = 6.0


class RunEndedError(Exception):
    """A run that could have gone on did not."""


@dataclass
class Figures:
    """What the kills of one kind of program came to."""

    target: str
    kills: int = 0
    runs: int = 0
    steps: int = 0
    trees: int = 0
    lost: int = 0
    evaluated: int = 0
    twice: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.lost <= self.evaluated and not (self.twice or self.left or self.ended)


class KilledRun:
    """One `trieline train`, resumed if its launcher is killed."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._temporary = scratch / "tmp"
        self._temporary.mkdir()
        self._config = scratch / "config.toml"
        plain = config_to_dict(load_config(["tiny"], [*SETTINGS, f"run.folder={scratch / 'runs'}"]))
        del plain["learner"]["warm_start"]
        self._config.write_text(tomli_w.dumps(plain), encoding="utf-8")
        self._mark = str(scratch)
        self._memory = _shared_memory()
        self.evaluated = 0
        """Trees that the learners asked for before the first step, at most."""
        self.start("--config", str(self._config))

    def start(self, *arguments: str) -> None:
        with (self._scratch / "screen.txt").open("ab") as screen:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "trieline", "train", *arguments],
                stdout=screen,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: self._mark, "TMPDIR": str(self._temporary)},
            )
        self._note_learner()

    @property
    def folder(self) -> Path | None:
        return next((self._scratch / "runs").glob("kill-*"), None)

    def steps(self) -> list[int]:
        """Numbers of the steps that the metrics hold."""
        return [int(record["step"]) for record in self.records()]

    def records(self) -> list[dict[str, float]]:
        path = self.folder / "metrics.jsonl" if self.folder else None
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path and path.exists() else []
        return [record for line in lines if "reward/mean" in (record := json.loads(line))]

    def wait_for_steps(self, count: int) -> None:
        self._wait(lambda: len(self.steps()) >= count, f"step {count}", PROGRESS_S)

    def kill(self, target: str, moment_s: float) -> None:
        """Kill a program of that kind `moment_s` after now, or as soon as there is one."""
        self._wait(lambda: any(self._pids(target)), f"a {target}", PROGRESS_S)
        time.sleep(moment_s)
        self._wait(lambda: any(self._pids(target)), f"a {target}", PROGRESS_S)
        before = len(self.steps())
        os.kill(next(self._pids(target)), signal.SIGKILL)
        if target == "learner":
            self._note_learner()
        if target == "launcher":
            self.launcher.wait()
            _wait_until(lambda: not any(self._processes()), END_S)
            if left := [command for _, _, command in self._processes()]:
                msg = f"left by a killed launcher: {left}"
                raise RunEndedError(msg)
            if self.folder is None:
                self.start("--config", str(self._config))
            else:
                self.start("--resume", str(self.folder))
        self.wait_for_steps(before + 1)

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

    def look_over(self, figures: Figures) -> None:
        """Add what the folder and the machine say."""
        records = self.records()
        numbers: dict[str, list[int]] = {}
        assert self.folder is not None, "it made steps"
        for delivery in read_journal(self.folder / "journal"):
            numbers.setdefault(delivery.actor_id, []).append(delivery.sequence_number)
        figures.runs += 1
        figures.steps += len(records)
        figures.trees += sum(map(len, numbers.values()))
        figures.lost += sum(max(found) + 1 - len(set(found)) for found in numbers.values())
        figures.evaluated += self.evaluated
        figures.twice += [
            f"{actor}: tree {number} is there {count} times"
            for actor, found in numbers.items()
            for number, count in Counter(found).items()
            if count > 1
        ]
        steps = [int(record["step"]) for record in records]
        if steps != list(range(1, len(steps) + 1)):
            figures.twice.append(f"expected every step once, got {steps}")
        figures.twice += self._used_records(records)
        _wait_until(lambda: not any(self._leftovers()), END_S / 4)
        figures.left += self._leftovers()

    def _note_learner(self) -> None:
        """One starts, and evaluates first if no step was made."""
        if self.folder is None or latest_checkpoint(self.folder / "checkpoints") is None:
            self.evaluated += len(load_config(["tiny"]).envs)

    def _used_records(self, records: list[dict[str, float]]) -> Iterator[str]:
        assert self.folder is not None, "it made steps"
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            yield "expected a checkpoint, got none"
            return
        state = read_state(checkpoint)
        per_step = load_config(["tiny"], SETTINGS).learner.trees_per_step
        steps = records[: state.step]
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
        if target == "launcher":
            yield self.launcher.pid
            return
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


def kill_in_one_run(targets: list[str], rng: random.Random, figures: Figures, *, early: bool = True) -> None:
    """Kill these, one after the other. `early`: the first may come before the first step."""
    with tempfile.TemporaryDirectory(prefix="kill-nine-") as scratch:
        run = KilledRun(Path(scratch))
        try:
            if not early:
                run.wait_for_steps(1)
            for number, target in enumerate(targets):
                moment = rng.uniform(0.0, FIRST_MOMENT_S if early and number == 0 else NEXT_MOMENT_S)
                print(f"  {target}: kill {figures.kills + 1}, {moment:.2f} s on", flush=True)
                run.kill(target, moment)
                figures.kills += 1
            run.wait_for_steps(len(run.steps()) + 2)
            run.stop()
        except RunEndedError as error:
            figures.ended.append(str(error))
        finally:
            if run.folder is not None and run.steps():
                run.look_over(figures)
            run.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each kind of program")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    options = parser.parse_args()
    found = []
    for target in options.targets:
        rng = random.Random(f"{options.seed} {target}")
        figures = Figures(target)
        print(f"{target} (seed {options.seed})", flush=True)
        while figures.kills < options.kills and len(figures.ended) < options.kills:
            left = options.kills - figures.kills
            kill_in_one_run([target] * min(KILLS_PER_RUN, left), rng, figures)
        found.append(figures)
    print(f"{'killed':<14} kills runs steps trees  lost (evaluated) twice left ended")
    for f in found:
        print(
            f"{f.target:<14} {f.kills:>5} {f.runs:>4} {f.steps:>5} {f.trees:>5} {f.lost:>5} "
            f"{f.evaluated:>11} {len(f.twice):>5} {len(f.left):>4} {len(f.ended):>5}  "
            f"{'good' if f.good else 'BAD'}"
        )
        for text in (*f.twice, *f.left, *f.ended):
            print(f"  {text}")
    RESULTS.parent.mkdir(exist_ok=True)
    report = {"seed": options.seed, "targets": [{**asdict(f), "good": f.good} for f in found]}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(f.good for f in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
