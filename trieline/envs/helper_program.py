"""The program of a helper process: a grader over lines of JSON, in bounded memory.

A request has so much processor time, which a busy machine does not shorten; then the kernel ends the process.
The owner kills it if that does not happen.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 1024 * 1024 * 1024


def bound_memory() -> None:
    """Of this process, for good."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def serve(reply_to: Callable[[Any], str], cpu_seconds: float) -> None:
    """Answer each request with a line, `error` for one that it stumbles on, until the input ends."""
    # What a library prints is no reply.
    out, sys.stdout = sys.stdout, sys.stderr
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        # The default action of SIGPROF ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            reply = reply_to(json.loads(line))
        except (Exception, RecursionError, MemoryError):  # noqa: BLE001  # whatever an answer can cause
            reply = "error"
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(reply + "\n")
        out.flush()
