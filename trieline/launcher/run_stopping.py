"""A run is ended from elsewhere: as Ctrl-C would, or at once."""

import signal
from collections.abc import Callable
from contextlib import ExitStack

from trieline.common.errors import TrielineError
from trieline.common.lock_holder import LockHolder, hold_process
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.run_state import find_runner, programs_of
from trieline.launcher.training_run import STOP_LEARNER_S, STOP_OTHERS_S

# Beyond what the launcher gives its programs.
MARGIN_S = 15.0
KILLED_S = 20.0


class StopError(TrielineError):
    """A run did not end in time. The message says what can be done."""


def stop_run(folder: RunFolder, *, now: bool, say: Callable[[str], None]) -> bool:
    """End a run and wait for its end. False: it was not running.

    Args:
        folder: the run's.
        now: kill its programs: what was learned since the last checkpoint is lost, no accepted tree is.
        say: hears what is waited for.

    Raises:
        LockError: another machine runs it.
        StopError: it did not end in time.
    """
    with ExitStack() as stack:
        runner = find_runner(folder)
        if runner is None:
            return False
        stack.enter_context(runner)
        # Held before the launcher goes: afterwards nothing says whose children they were.
        programs = _hold_programs(runner, stack) if now else {}
        if now:
            runner.signal(signal.SIGKILL)
            for program in programs.values():
                program.signal(signal.SIGKILL)
            _wait(folder, {"launcher": runner, **programs}, KILLED_S)
        else:
            runner.signal(signal.SIGTERM)
            say(f"asked process {runner.pid} to stop; it writes a checkpoint first")
            _wait(folder, {"launcher": runner}, STOP_LEARNER_S + STOP_OTHERS_S + MARGIN_S)
    return True


def _hold_programs(runner: LockHolder, stack: ExitStack) -> dict[str, LockHolder]:
    held = {}
    for name, pid in programs_of(runner.pid).items():
        program = hold_process(pid)
        if program is None:
            continue
        stack.enter_context(program)
        # Its number still belongs to a child of the launcher, so it did when it was held.
        if programs_of(runner.pid).get(name) == pid:
            held[name] = program
    return held


def _wait(folder: RunFolder, processes: dict[str, LockHolder], seconds: float) -> None:
    for name, process in processes.items():
        if not process.wait(seconds):
            msg = (
                f"{name} (process {process.pid}) of {folder.path} still runs {seconds:g} s after it was asked"
                " to stop; `trieline stop --now` kills it"
            )
            raise StopError(msg)
