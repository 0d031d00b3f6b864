"""The program of a grading process: math-verify."""

import sys
from collections.abc import Callable
from typing import Any

from trieline.envs.helper_program import bound_memory, serve


def main(cpu_seconds: float) -> None:
    """Answer `[gold, answer]` with `equal`, `different` or `error`, until the input ends."""
    bound_memory()
    compare = _comparison()
    # The first expression builds the parser, which takes a second: not on an answer's account.
    compare(r"\sqrt{8}", r"2\sqrt{2}")

    def reply_to(request: Any) -> str:
        gold, answer = request
        return "equal" if compare(gold, answer) else "different"

    serve(reply_to, cpu_seconds)


def _comparison() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    # Both time-outs of its own need signals with a handler, and swallow what they interrupt.
    def compare(gold: str, answer: str) -> bool:
        values = [parse(f"${text}$", parsing_timeout=None, raise_on_error=True) for text in (gold, answer)]
        return bool(verify(*values, timeout_seconds=None, raise_on_error=True))

    return compare


if __name__ == "__main__":
    main(float(sys.argv[1]))
