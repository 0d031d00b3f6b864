"""A process that has imported what agents import, and forks once for each of them.

    python -m trieline.actors.agents.forker MODULE...

Reads a line of JSON for each agent: `{"number", "argv", "environment", "folder", "files", "task",
"file_bytes"}`, of which `argv` is what stands after `python`; `{"kill": number}` ends one. Writes a line when
one has ended: `{"number", "status"}`, and kills what is left of its process group. Ends when its standard
input does. Agents see a process of their own, as if they had been started afresh.
"""

import contextlib
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from trieline.actors.agents.agent_process import ERRORS, MARK, OUTPUT

READ_BYTES = 1 << 16
NOBODY = "0" * 16
"""The mark of the process itself, as long as that of an episode."""
ENV_START = 47
"""Place in `/proc/PID/stat`, after the name, of where the environment begins (`man 5 proc`: field 50)."""


def main() -> int:
    """Returns the exit status."""
    requests, answers = _own_pipes()  # before modules print as they are imported
    for module in sys.argv[1:]:
        importlib.import_module(module)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    running: dict[int, int] = {}
    """Number of each agent by its process."""
    rest = b""
    _tell(answers, {"ready": True})
    while True:
        for key, _ in selector.select():
            if key.fd == woken:
                os.read(woken, READ_BYTES)
                _tell_ended(answers, running)
                continue
            data = os.read(requests, READ_BYTES)
            if not data:
                return 0
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                if "kill" in asked:
                    _end_groups([pid for pid, number in running.items() if number == asked["kill"]])
                    continue
                running[_fork(asked, [requests, answers, woken, wake])] = asked["number"]


def _own_pipes() -> tuple[int, int]:
    """Standard input and output, away from what agents call so."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return requests, answers


def _tell(answers: int, what: dict[str, Any]) -> None:
    os.write(answers, json.dumps(what).encode() + b"\n")


def _tell_ended(answers: int, running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in running:
            _end_groups([pid])
            _tell(answers, {"number": running.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def _end_groups(pids: list[int]) -> None:
    for pid in pids:
        # Until it has a group of its own there is only itself.
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(pid, signal.SIGKILL)


def _fork(asked: dict[str, Any], own: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        _be_agent(asked, own)
    return pid


def _be_agent(asked: dict[str, Any], own: list[int]) -> NoReturn:
    """In the child."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in own:
            os.close(descriptor)
        os.setsid()
        files = Path(asked["files"])
        for number, path, how in (
            (0, asked["task"], os.O_RDONLY),
            (1, files / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, files / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            opened = os.open(path, how, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"], asked["file_bytes"]))
        _wear(asked["environment"][MARK])
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        _run(asked["argv"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001  # the end of a process
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                status = status or 1
        os._exit(status)


def _wear(mark: str) -> None:
    """Put the mark where others look for it.

    What the system shows of a process is the environment that its program was started with: here that of the
    process that forks, `NOBODY` in it. A copy that the agent makes of itself shows the same.
    """
    place = Path("/proc/self/environ").read_bytes().find(f"{MARK}={NOBODY}".encode())
    if place < 0 or len(mark) != len(NOBODY):
        msg = f"expected a mark of {len(NOBODY)} characters and a place for it, got {mark!r}"
        raise ValueError(msg)
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[ENV_START])
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start + place + len(MARK) + 1)
        memory.write(mark.encode())


def _run(argv: list[str]) -> None:
    """As `python ARGV...` does."""
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).parent)
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    raise SystemExit(main())
