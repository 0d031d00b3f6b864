"""A grammar is compiled first by a process that may die of it.

llguidance bounds much of what a grammar costs, but not all: a chain of twenty thousand rules overflows the
stack, a regex of as many optional letters takes minutes and gigabytes. So a program of its own, this module,
holds the tokenizer and, for each grammar, forks a process that compiles it and works out the first mask, with
little memory, stack and time. A line of JSON goes in, `{"json_schema": ..., "lark": ...}`, one comes out: why
it is refused, or "".
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trieline.learner.policy_server.batching.grammar_compiler import compiled, load_tokenizer, short
from trieline.learner.policy_server.errors import InvalidRequestError

TRIAL_SECONDS = 1.0
"""Of processor time, for one grammar: the schemas of fifty tools take a tenth of it."""
TRIAL_BYTES = 1 << 30
"""Of address space, beside the tokenizer's."""
TRIAL_STACK_BYTES = 4 << 20
"""Half of what a process usually has, so that the server's own is enough for what passes."""
START_SECONDS = 60.0
WALL_SECONDS = 20.0
"""To wait for the processor time of one trial on a busy machine."""


class GrammarTrials:
    """The end of the policy server. Its program starts with the first trial."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to load the tokenizer, if that is not under way or done."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            # -P: no module is taken from the working folder in place of an installed one.
            command = [sys.executable, "-P", "-m", __name__, str(self._tokenizer)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def expect_harmless(self, *, json_schema: str, lark: str) -> None:
        """Raise InvalidRequestError for what can't be compiled, or not within the limits."""
        self.start()
        assert self._process is not None
        line = json.dumps({"json_schema": json_schema, "lark": lark}).encode() + b"\n"
        try:
            refusal = json.loads(_exchange(self._process, line, START_SECONDS + WALL_SECONDS))
        except (OSError, ValueError) as error:
            self.close()
            msg = f"expected a grammar that can be compiled, got no word of whether it can: {error}"
            raise InvalidRequestError(msg) from error
        if refusal:
            raise InvalidRequestError(str(refusal))

    def close(self) -> None:
        """End the program, if it runs. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exchange(process: "subprocess.Popen[bytes]", line: bytes, timeout_s: float) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    deadline, answer = time.monotonic() + timeout_s, b""
    while not answer.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            msg = f"none within {timeout_s:g} s"
            raise OSError(msg)
        part = os.read(process.stdout.fileno(), 65_536)
        if not part:
            msg = "it has ended"
            raise OSError(msg)
        answer += part
    return answer


def main(tokenizer: Path) -> None:
    """Answer until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    refusal, loaded = "", None
    try:
        loaded = load_tokenizer(tokenizer)
    except InvalidRequestError as error:
        refusal = str(error)
    for line in sys.stdin.buffer:
        answer = refusal or _tried(loaded, json.loads(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _tried(tokenizer: Any, grammar: dict[str, str]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.write(write, _refusal(tokenizer, grammar).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        refusal = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if status:
        return (
            f"expected a grammar that compiles within {TRIAL_SECONDS:g} s, {TRIAL_BYTES >> 20} MiB and "
            f"{TRIAL_STACK_BYTES >> 20} MiB of stack, got one that takes more"
        )
    return refusal


def _refusal(tokenizer: Any, grammar: dict[str, str]) -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + TRIAL_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_STACK, (TRIAL_STACK_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What dies of its memory or stack has nothing to tell.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.setitimer(signal.ITIMER_PROF, TRIAL_SECONDS)
    try:
        matcher = compiled(tokenizer, **grammar)
    except InvalidRequestError as error:
        return str(error)
    matcher.compute_bitmask()
    if matcher.is_error():
        return f"expected a grammar of some text, got none: {short(matcher.get_error())}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
