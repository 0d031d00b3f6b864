"""What came of a shell task, by its check: run on the agent's files in a clean sandbox, never in the agent's.

The agent's sandbox has ended every program by then, and what comes over is folders, files and links that stay
inside. The check is a word of its interpreter's command, so it is in no file; what the agent put in the place
of tools, into start-up files or on PATH is nothing but files beside it. What a check itself starts out of the
agent's folder runs beside it and can know what it asks: a check should look at files, not run them.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import IO

from trieline.common.text import shortened
from trieline.envs.sandbox import Backend, ExecResult, SandboxLimits, shared_pool
from trieline.envs.sandbox.pool import ACQUIRE_SECONDS
from trieline.envs.tools.shell_task import ShellTask

MIB = 1024 * 1024
AGENT = SandboxLimits(memory_bytes=256 * MIB, pids=64, disk_bytes=16 * MIB)
"""Of the agent's sandbox; time and output are settings of the environment."""
CHECK = replace(AGENT, disk_bytes=3 * AGENT.disk_bytes, output_bytes=64 * 1024, tail_bytes=32 * 1024)
"""There is room for what the agent left, the files as they were, and what the check writes."""
FILES, START = "files", "start"
"""Folders of the clean sandbox: the agent's, in which the check runs, and the files as they were."""
START_VARIABLE = "START"
"""The environment variable with the path of the latter."""
MOST_MESSAGE = 200
"""Characters."""
CHECKS_BEFORE = 40
"""Which may all take as long as they can while one waits: a pool has a sandbox for each core."""

_SCORE = re.compile(rb"score=(.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Of the check."""

    reward: float = 0.0
    reason: str = ""
    """Why it is not 1: `untouched`, `workspace_lost`, `not_taken`, `timeout`, `memory`, `exit`, `score`."""
    message: str = ""
    """The last line that the check printed, or why files are not taken."""


def verdict_of(task: ShellTask, files: IO[bytes], *, backend: Backend, seconds: float) -> Verdict:
    """Run the check on a tar of the agent's files. SandboxError if the sandbox fails."""
    limits = replace(CHECK, wall_seconds=seconds)
    with shared_pool(backend, limits).lend(ACQUIRE_SECONDS + CHECKS_BEFORE * seconds) as sandbox:
        sandbox.put(task.archive(), START)
        try:
            files.seek(0)
            sandbox.put(files, FILES)
        except OSError as error:
            return Verdict(reason="not_taken", message=shown(str(error)))
        enter = 'mkdir -p "$1" && cd "$1" && shift && exec "$@"'
        result = sandbox.exec(
            ["sh", "-c", enter, "sh", FILES, *task.check_argv],
            environment={START_VARIABLE: str(sandbox.workdir / START)},
        )
    return _verdict(result)


def _verdict(result: ExecResult) -> Verdict:
    said = (result.stderr.strip() or result.stdout.strip()).rpartition(b"\n")[2]
    message = shown(said.decode("utf-8", "replace"))
    signs = (("timeout", result.timed_out), ("memory", result.oom), ("exit", result.exit_code != 0))
    if reason := next((name for name, holds in signs if holds), ""):
        return Verdict(reason=reason, message=message)
    printed = _SCORE.fullmatch(result.stdout.strip().rpartition(b"\n")[2])
    score = 1.0 if printed is None else _score(printed[1])
    return Verdict(reward=score, reason="" if score == 1 else "score", message=message)


def _score(text: bytes) -> float:
    """What is no number of 0 to 1 counts nothing."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and 0 <= value <= 1 else 0.0


def shown(text: str) -> str:
    """A message as it may stand in a score."""
    return shortened(text, MOST_MESSAGE)
