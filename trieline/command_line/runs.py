"""`trieline status | logs | stop`: the runs of this machine, by their folders."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trieline.launcher.run_state import RunState


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    status = verbs.add_parser("status", help="the runs here and those that go on, or one with its programs")
    status.add_argument("run_dir", metavar="RUN", nargs="?", help="a run folder")
    status.add_argument("--folder", default="runs", help="where to look for runs (default: %(default)s)")
    status.add_argument("--json", action="store_true", help="an object a line")
    status.set_defaults(run=_status)

    logs = verbs.add_parser("logs", help="the logs of a run's programs")
    logs.add_argument("run_dir", metavar="RUN", help="a run folder")
    logs.add_argument("process", nargs="?", metavar="PROGRAM", help="learner, actor-0, ... (default: all)")
    logs.add_argument("--lines", type=int, default=20, help="the last of each (default: %(default)s)")
    logs.add_argument("--follow", action="store_true", help="what is added, too, until the run is over")
    logs.set_defaults(run=_logs)

    stop = verbs.add_parser("stop", help="end a run as Ctrl-C does, and wait for its end")
    stop.add_argument("run_dir", metavar="RUN", help="a run folder")
    stop.add_argument("--now", action="store_true", help="kill it: no checkpoint of what came since the last")
    stop.set_defaults(run=_stop)


def _status(options: argparse.Namespace) -> int:
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.run_state import live_runs, read_state, runs_in

    if options.run_dir is not None:
        return _one(read_state(RunFolder.open(options.run_dir)), as_json=options.json)
    folders = {folder.path: folder for folder in [*runs_in(Path(options.folder)), *live_runs()]}
    states = [read_state(folder) for folder in folders.values()]
    if options.json:
        return _json(states)
    if not states:
        print(f"no run in {Path(options.folder).absolute()}, and none goes on elsewhere")
        return 0
    rows = [("state", "step", "", "last record", "process", "folder"), *map(_row, states)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(state: "RunState") -> tuple[str, ...]:
    from trieline.common.text import visible

    ago = "" if state.silent_s is None else f"{_time(state.silent_s)} ago"
    step = f"{state.step}/{'?' if state.steps is None else state.steps}"
    pid = "" if state.pid is None else str(state.pid)
    return state.state, step, state.figure, ago, pid, visible(str(state.folder.path))


def _one(state: "RunState", *, as_json: bool) -> int:
    from trieline.common.text import visible
    from trieline.launcher.run_state import programs_of, tracker_troubles

    if as_json:
        return _json([state])
    name, step, figure, ago, pid, path = _row(state)
    print(path)
    print("  ".join(part for part in (name, f"step {step}", figure, ago) if part))
    if state.pid is not None:
        programs = programs_of(state.pid)
        print("  ".join([f"{'launcher' if programs else 'learner'} {pid}", *map(_program, programs.items())]))
    for line in () if state.steps is None else tracker_troubles(state.folder):
        print(visible(line))
    return 0


def _program(program: tuple[str, int]) -> str:
    from trieline.common.text import visible

    return f"{visible(program[0])} {program[1]}"


def _json(states: "list[RunState]") -> int:
    import json

    from trieline.launcher.run_state import programs_of

    for state in states:
        record = {
            "folder": str(state.folder.path),
            "state": state.state,
            "step": state.step,
            "steps": state.steps,
            "figure": state.figure,
            "silent_s": state.silent_s,
            "pid": state.pid,
            "programs": {} if state.pid is None else programs_of(state.pid),
        }
        print(json.dumps(record))
    return 0


def _logs(options: argparse.Namespace) -> int:
    from trieline.config import ConfigError
    from trieline.launcher.log_reading import read_logs
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.run_state import find_runner

    if options.lines < 0:
        msg = f"--lines: expected at least 0, got {options.lines}"
        raise ConfigError(msg)
    folder = RunFolder.open(options.run_dir)

    def goes_on() -> bool:
        runner = find_runner(folder)
        if runner is not None:
            runner.close()
        return runner is not None

    for line in read_logs(
        folder, options.process, lines=options.lines, follow=options.follow, goes_on=goes_on
    ):
        print(line, flush=options.follow)
    return 0


def _stop(options: argparse.Namespace) -> int:
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.run_stopping import stop_run

    folder = RunFolder.open(options.run_dir)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    stopped = stop_run(folder, now=options.now, say=say)
    print(f"{folder.path} {'has ended' if stopped else 'is not running'}")
    return 0


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
