"""Grade an answer against the gold one: a guard on the form first, math-verify behind it where values decide.

math-verify takes a restated question (`5+7` for 12) for its answer, so only literals get as far as it: an
integer, a decimal, a fraction, or a tuple of such. It loads sympy, cannot time out in a thread, and an
answer can keep it busy for ever. It therefore runs in processes of its own, which are killed when late, and
starts with the first answer that needs it; two integers are compared here and now.
"""

import re
from dataclasses import dataclass
from typing import Literal

from trieline.envs.math.grading_process import GradingPool

Form = Literal["integer", "number", "expression"]
MAX_LENGTH = {"integer": 100, "number": 200, "expression": 400}
"""Characters of an answer of each form. Anything longer is no answer."""

_INTEGER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = rf"(?:{_INTEGER}(?:\.\d+)?|[-+]?\.\d+|[-+]?\\d?frac\{{\d+\}}\{{\d+\}}|[-+]?\d+/\d+)"
_FORMS = {
    "integer": re.compile(_INTEGER, re.ASCII),
    "number": re.compile(rf"{_NUMBER}|[(\[]{_NUMBER}(?:, ?{_NUMBER})*[)\]]", re.ASCII),
    # Expressions are graded by value all the same; relations are not, for they may restate the question.
    "expression": re.compile(r"[^=<>\n]+"),
}
_WRAPPERS = (
    re.compile(r"\\boxed\{(.*)\}", re.DOTALL),
    re.compile(r"\$+(.*?)\$+", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\*\*(.*)\*\*", re.DOTALL),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the answer is right, and why (`equal`, `different`, `form`, `too long`, `timeout`, `error`)."""

    correct: bool
    reason: str


def grade(gold: str, answer: str, *, form: Form = "number", pool: GradingPool | None = None) -> Verdict:
    """Compare an extracted answer of the given form with the gold one.

    Any thread may call it. Raises GraderError if the grader itself fails; an answer on which it hangs or
    stumbles is merely wrong.
    """
    if len(answer) > MAX_LENGTH[form]:
        return Verdict(correct=False, reason="too long")
    answer = unwrap(answer)
    if not _FORMS[form].fullmatch(answer):
        return Verdict(correct=False, reason="form")
    if form != "expression" and _FORMS["integer"].fullmatch(answer) and _FORMS["integer"].fullmatch(gold):
        return _verdict(_integer(gold) == _integer(answer))
    reply = (pool or GradingPool.shared()).verify(gold, answer)
    return Verdict(correct=reply == "equal", reason=reply)


def unwrap(answer: str) -> str:
    """Without the ornaments of answers: `\\boxed{12}`, `$12$`, `**12**`, blanks and a last full stop."""
    answer = answer.strip().removesuffix(".").strip()
    for wrapper in _WRAPPERS:
        if match := wrapper.fullmatch(answer):
            return unwrap(match[1])
    return answer


def _integer(literal: str) -> int:
    return int(literal.replace(",", ""))


def _verdict(correct: bool) -> Verdict:
    return Verdict(correct=correct, reason="equal" if correct else "different")
