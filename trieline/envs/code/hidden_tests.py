"""The hidden tests of a task, and the comparison of what the sandbox printed with what was expected.

Expected values never enter the sandbox, and the verdict is never read from it: a program that forges the
runner's output would have to know the right values.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from trieline.envs.code.values import encode
from trieline.envs.sandbox import ExecResult

MAX_DEPTH = 50
"""Of a returned value."""
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call and the value it must return, as `values.encode` writes it."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How many of the tests passed, and what was wrong with the first that did not.

    `error` is empty, `wrong` (another value), the type of an exception, or what became of the process:
    `timeout`, `memory`, `output` (too much of it), `exit`.
    """

    passed: int
    total: int
    error: str
    first_failed: int = 0
    """The place of the first case that failed, if one did."""


def make_case(arguments: tuple[Any, ...], value: object) -> Case:
    """A case out of plain Python values."""
    return Case(arguments=arguments, expected=json.loads(json.dumps(encode(value))))


def judge(cases: tuple[Case, ...], result: ExecResult) -> Report:
    """Compare line by line. Anything unreadable counts as a failed test."""
    lines = result.stdout.split(b"\n")[: len(cases)] if result.stdout else []
    outcomes = [_outcome(line) for line in lines]
    # Of a program that ended early, there are fewer outcomes than cases.
    correct = [
        kind == "value" and same(case.expected, value)
        for case, (kind, value) in zip(cases, outcomes, strict=False)
    ] + [False] * (len(cases) - len(outcomes))
    if all(correct):
        return Report(passed=len(cases), total=len(cases), error="")
    return Report(
        passed=sum(correct),
        total=len(cases),
        error=_error(outcomes, cases, result),
        first_failed=correct.index(False),
    )


def same(expected: Any, actual: Any, depth: int = 0) -> bool:
    """Equality of encoded values. Numbers are compared by value, but True is not 1."""
    if depth > MAX_DEPTH or isinstance(expected, bool) != isinstance(actual, bool):
        return False
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(
            same(a, b, depth + 1) for a, b in zip(expected, actual, strict=True)
        )
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        try:
            return math.isclose(expected, actual, rel_tol=RELATIVE_TOLERANCE)
        except OverflowError:
            return False
    if isinstance(expected, int) and isinstance(actual, (int, float)):
        return bool(expected == actual)
    return type(expected) is type(actual) and bool(expected == actual)


def _outcome(line: bytes) -> tuple[str, Any]:
    """`("value", v)` or `("error", type)` of one line from the sandbox."""
    try:
        kind, value = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return "error", "output"
    if kind == "value":
        return kind, value
    return "error", value[:100] if isinstance(value, str) else "output"


def _error(outcomes: list[tuple[str, Any]], cases: tuple[Case, ...], result: ExecResult) -> str:
    for case, (kind, value) in zip(cases, outcomes, strict=False):
        if kind == "error" and value != "output":
            return str(value)
        if kind == "value" and not same(case.expected, value):
            return "wrong"
    if result.timed_out:
        return "timeout"
    if result.oom:
        return "memory"
    return "output" if result.truncated or len(outcomes) >= len(cases) else "exit"
