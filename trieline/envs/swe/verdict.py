"""The verdict of SWE-bench on the log of an evaluation: what swebench 5.0.2 says of the same text.

Where swebench 4.1.0 differs it is told at the rule. Source: https://github.com/SWE-bench/SWE-bench,
`swebench/harness/grading.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trieline.envs.errors import LogError, TaskError
from trieline.envs.swe.infrastructure import infrastructure_sign
from trieline.envs.swe.log_parsers.outcome import Outcome, Outcomes, Parser
from trieline.envs.swe.logs import parser_of

START = ">>>>> Start Test Output"
END = ">>>>> End Test Output"
EXIT_CODE = ">>>>> Test Exit Code"
NOT_RUN = {
    ">>>>> Patch Apply Failed": "the patch did not apply",
    ">>>>> Reset Failed": "the reset failed",
    ">>>>> Tests Errored": "the tests broke off",
    ">>>>> Tests Timed Out": "the tests timed out",
}
"""Marks of an evaluation that came to nothing, each with what it says."""
FAILURES = frozenset({Outcome.FAILED, Outcome.ERROR})
LONGEST_LOG = 128 * 2**20
"""Characters. Longer ones are not graded."""

_EXIT_CODE = re.compile(rf"{EXIT_CODE}:\s*(-?\d+)")
# A count of tests above zero: proof that a suite ran whose failures alone are told. It is looked for from the
# first of a run of digits only, for a log may be all digits.
_COUNT = r"(?<!\d)(?:(?![1-9])\d)*[1-9]\d*"
_SUITE_RAN = re.compile(
    r"Executed [1-9]\d* of \d+"
    r"|TOTAL: [1-9]\d* (?:SUCCESS|FAILED)"
    rf"|{_COUNT} passing"
    r"|Tests:\s+[1-9]"
    r"|Test Suites:\s+(?:\d+ \w+, )*[1-9]\d* total"
    r"|^# tests [1-9]"
    rf"|{_COUNT} specs?, \d+ failures?"
    r"|': ok$",
    re.MULTILINE,
)


class EvalType(StrEnum):
    """How tests are judged by what a log says of them."""

    PASS_AND_FAIL = "pass_and_fail"
    """A test that is absent has failed."""
    FAIL_ONLY = "fail_only"
    """The log tells failures alone: a test that is absent has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedList:
    """The tests of one list of a task by how they went, in the order of the list.

    A test of outcome `UNCLEAR` is in neither part, as in the official report.
    """

    success: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()

    def as_report(self) -> dict[str, list[str]]:
        """As it stands in a report."""
        return {"success": list(self.success), "failure": list(self.failure)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a log says of a patch."""

    ungraded: str = ""
    """Why nothing was graded; the lists are empty then. What was graded is called
    `patch_successfully_applied` in the official report."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """Of every test that the log tells of, if it was graded."""
    fail_to_pass: JudgedList = JudgedList()
    pass_to_pass: JudgedList = JudgedList()
    infrastructure: str = ""
    """The sign of a broken machine in a log that was not graded."""
    infrastructure_ambiguous: bool = False
    """The sign can also come from a bad patch."""

    @property
    def resolved(self) -> bool:
        """The log was graded and no test failed."""
        return not (self.ungraded or self.fail_to_pass.failure or self.pass_to_pass.failure)


def verdict_on(
    log: str,
    *,
    parser: str,
    eval_type: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str],
    instance_id: str = "",
    version: str = "",
) -> Verdict:
    """The verdict on a log; a log that cannot be read is not graded.

    `instance_id` and `version` are the task's, see `parse_log`. Raises TaskError for a parser or a type of
    evaluation that nobody knows.
    """
    if eval_type not in list(EvalType):
        msg = f"expected an eval_type of {', '.join(EvalType)}, got {eval_type!r}"
        raise TaskError(msg)
    parse = parser_of(parser, instance_id=instance_id, version=version)
    log = with_line_ends(log)
    try:
        outcomes = graded_outcomes(log, parse)
    except LogError as error:
        sign = infrastructure_sign(log)
        return Verdict(
            ungraded=str(error),
            infrastructure=sign.reason if sign else "",
            infrastructure_ambiguous=sign is not None and sign.ambiguous,
        )
    if eval_type == EvalType.FAIL_ONLY:
        return Verdict(
            outcomes=outcomes,
            fail_to_pass=_told_failed(fail_to_pass, outcomes),
            pass_to_pass=_told_failed(pass_to_pass, outcomes),
        )
    passes = frozenset({Outcome.PASSED, Outcome.XFAIL})
    return Verdict(
        outcomes=outcomes,
        fail_to_pass=_judged(fail_to_pass, outcomes, passes),
        # 4.1.0 lets a skipped test of either list stand in neither part.
        pass_to_pass=_judged(pass_to_pass, outcomes, passes | {Outcome.SKIPPED}),
    )


def with_line_ends(log: str) -> str:
    """A log as it is read from a file: with one kind of line ends."""
    return log.replace("\r\n", "\n").replace("\r", "\n")


def graded_outcomes(log: str, parse: Parser) -> Outcomes:
    """The outcomes that count. Raises LogError where the log is not that of a run, or contradicts itself.

    4.1.0 knows neither the proof that a suite ran nor the exit code.
    """
    if len(log) > LONGEST_LOG:
        msg = f"expected a log of at most {LONGEST_LOG} characters, got {len(log)}"
        raise LogError(msg)
    for mark, meaning in NOT_RUN.items():
        if mark in log:
            raise LogError(meaning)
    for marker in (START, END):
        if marker not in log:
            msg = f"the log lacks the marker {marker!r}"
            raise LogError(msg)
    outcomes = outcomes_told(log, parse)
    if not outcomes and not _SUITE_RAN.search(log):
        msg = "the log tells of no test"
        raise LogError(msg)
    if outcomes and FAILURES.isdisjoint(outcomes.values()) and _exit_code(log) != 0:
        msg = "the tests ended with an error that no test tells of"
        raise LogError(msg)
    return outcomes


def outcomes_told(log: str, parse: Parser) -> Outcomes:
    """Of the section from the first start marker to the next marker of either kind, or to the end.

    Where the section tells of no test, of the whole log. Raises LogError for one that the parser cannot read.
    """
    _, _, rest = log.partition(START)
    ends = [end for marker in (START, END) if (end := rest.find(marker)) >= 0]
    return parse(rest[: min(ends, default=None)]) or parse(log)


def _exit_code(log: str) -> int:
    """That of the test command; 0 where none is written down. Raises LogError for one that is no number."""
    match = _EXIT_CODE.search(log)
    try:
        return int(match[1]) if match else 0
    except ValueError:  # of thousands of digits
        msg = "the exit code of the tests is no number"
        raise LogError(msg) from None


def _told_failed(tests: Sequence[str], outcomes: Outcomes) -> JudgedList:
    failed = {test for test in tests if outcomes.get(test) == Outcome.FAILED}
    return JudgedList(
        success=tuple(test for test in tests if test not in failed),
        failure=tuple(test for test in tests if test in failed),
    )


def _judged(tests: Sequence[str], outcomes: Outcomes, passes: frozenset[Outcome]) -> JudgedList:
    told = [(test, _outcome_of_test(test, outcomes)) for test in tests]
    return JudgedList(
        success=tuple(test for test, outcome in told if outcome in passes),
        failure=tuple(
            test for test, outcome in told if outcome not in passes and outcome is not Outcome.UNCLEAR
        ),
    )


def _outcome_of_test(test: str, outcomes: Outcomes) -> Outcome | None:
    """None if the log does not tell.

    676 ids of SWE-bench Verified are cut within a parameter: one with more `[` than `]` stands for the tests
    that begin with it, if all of them pass or none. 4.1.0 compares whole ids alone.
    """
    if test in outcomes or test.count("[") <= test.count("]"):
        return outcomes.get(test)
    found = [outcome for name, outcome in outcomes.items() if name.startswith(test)]
    passing = {outcome in (Outcome.PASSED, Outcome.XFAIL) for outcome in found}
    return found[0] if len(passing) == 1 else None


def official_report(instance_id: str, verdict: Verdict | None) -> dict[str, dict[str, Any]]:
    """The report of one instance as the official harness writes it; None for a prediction without a patch."""
    report: dict[str, Any] = {
        "patch_is_None": verdict is None,
        "patch_exists": verdict is not None,
        "patch_successfully_applied": verdict is not None and not verdict.ungraded,
        "resolved": verdict is not None and verdict.resolved,
        "infra_failure": False,
    }
    if verdict is not None and verdict.infrastructure:
        report["infra_failure"] = not verdict.infrastructure_ambiguous
        report["infra_failure_reason"] = verdict.infrastructure
    if verdict is not None and not verdict.ungraded:
        report["tests_status"] = {
            "FAIL_TO_PASS": verdict.fail_to_pass.as_report(),
            "PASS_TO_PASS": verdict.pass_to_pass.as_report(),
            "FAIL_TO_FAIL": JudgedList().as_report(),
            "PASS_TO_FAIL": JudgedList().as_report(),
        }
    return {instance_id: report}
