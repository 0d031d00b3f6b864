"""Grade an answer against the gold one: a guard on the form first, math-verify behind it where values decide.

math-verify takes a restated question (`5+7` for 12) for its answer, so only what is worked out gets as far as
it: an integer, a decimal, a fraction in lowest terms, or a tuple of such; as an `expression` also what is of
the gold answer's kind (see `form`). It loads sympy, cannot time out in a thread, and an answer can keep it
busy for ever. It therefore runs in processes of its own, which are killed when late, and starts with the
first answer that needs it; two integers are compared here and now.
"""

import re
from dataclasses import dataclass
from typing import Literal

from trieline.envs.math.form import INTEGER, NUMBER, is_worked_out
from trieline.envs.math.grading_process import GradingPool

Form = Literal["integer", "number", "expression"]
MAX_LENGTH = {"integer": 100, "number": 200, "expression": 400}
"""Characters of an answer of each form. Anything longer is no answer."""

_INTEGER = re.compile(INTEGER, re.ASCII)
_RELATION = re.compile(r"[=<>\n]")
_WRAPPERS = ((r"\boxed{", "}"), ("$", "$"), (r"\(", r"\)"), ("**", "**"))


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
    answer = unwrap(answer).replace("{,}", ",").replace("−", "-")
    if not _has_form(answer, form, unwrap(gold)):
        return Verdict(correct=False, reason="form")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return _verdict(_integer(gold) == _integer(answer))
    reply = (pool or GradingPool.shared()).verify(gold, answer)
    return Verdict(correct=reply == "equal", reason=reply)


def unwrap(answer: str) -> str:
    """Without the ornaments of answers: `\\boxed{12}`, `$12$`, `**12**`, blanks and a last full stop."""
    wrapped = True
    while wrapped:
        answer = answer.strip().removesuffix(".").strip()
        wrapped = False
        for opening, closing in _WRAPPERS:
            if (
                len(answer) >= len(opening + closing)
                and answer.startswith(opening)
                and answer.endswith(closing)
            ):
                answer = answer[len(opening) : -len(closing)]
                wrapped = True
    return answer


def _has_form(answer: str, form: Form, gold: str) -> bool:
    if form == "integer":
        return _INTEGER.fullmatch(answer) is not None
    if form == "number" and not NUMBER.fullmatch(answer):
        return False
    # Relations may restate the question, and are graded by value all the same.
    return bool(answer) and not _RELATION.search(answer) and is_worked_out(answer, gold)


def _integer(literal: str) -> int:
    return int(literal.replace(",", ""))


def _verdict(correct: bool) -> Verdict:
    return Verdict(correct=correct, reason="equal" if correct else "different")
