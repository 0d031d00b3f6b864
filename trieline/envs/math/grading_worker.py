"""The program of a grading process: math-verify over lines of JSON, in bounded memory.

An answer has so much processor time, which a busy machine does not shorten; then the kernel ends the
process. The owner kills it if that does not happen.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable

MEMORY_BYTES = 1024 * 1024 * 1024


def main(cpu_seconds: float) -> None:
    """Answer `[gold, answer]` with `equal`, `different` or `error`, until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    compare = _comparison()
    # The first expression builds the parser, which takes a second: not on an answer's account.
    compare(r"\sqrt{8}", r"2\sqrt{2}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        # The default action of SIGPROF ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            gold, answer = json.loads(line)
            reply = "equal" if compare(gold, answer) else "different"
        except (Exception, RecursionError, MemoryError):  # noqa: BLE001  # whatever an answer can cause
            reply = "error"
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


def _comparison() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    # Both time-outs of its own need signals with a handler, and swallow what they interrupt.
    def compare(gold: str, answer: str) -> bool:
        values = [parse(f"${text}$", parsing_timeout=None, raise_on_error=True) for text in (gold, answer)]
        return bool(verify(*values, timeout_seconds=None, raise_on_error=True))

    return compare


if __name__ == "__main__":
    main(float(sys.argv[1]))
