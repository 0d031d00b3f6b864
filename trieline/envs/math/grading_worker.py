"""The program of a grading process: math-verify over lines of JSON, in bounded memory.

Its owner kills it when an answer takes too long; the alarm is for the case that the owner is gone.
"""

import json
import resource
import signal
import sys

MEMORY_BYTES = 1024 * 1024 * 1024


def main(timeout_s: float) -> None:
    """Answer `[gold, answer]` with `equal`, `different` or `error`, until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    from math_verify import parse, verify

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        # The default action of SIGALRM ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
        try:
            gold, answer = json.loads(line)
            # Both time-outs of its own need signals with a handler, and swallow what they interrupt.
            equal = verify(
                parse(f"${gold}$", parsing_timeout=None, raise_on_error=True),
                parse(f"${answer}$", parsing_timeout=None, raise_on_error=True),
                timeout_seconds=None,
                raise_on_error=True,
            )
            reply = "equal" if equal else "different"
        except (Exception, RecursionError, MemoryError):  # noqa: BLE001  # whatever an answer can cause
            reply = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
