"""pytest's `-v` and `-rA` together, for repositories whose parser nobody has published."""

import re

from trieline.envs.swe.log_parsers.outcome import PASSED, Outcome, Outcomes, lines_of
from trieline.envs.swe.log_parsers.suite_formats import ANSI
from trieline.envs.swe.log_parsers.xml_reports import worse

_OUTCOMES = {
    **{word: Outcome(word) for word in ("PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL")},
    "XPASS": PASSED,
}
_WORD = "|".join(_OUTCOMES)
_SUMMARY = re.compile(rf"(?:\[gw\d+\] \[ *\d+%\] )?({_WORD}) (\S.*)")
_PERCENT = re.compile(r"(?<!\s)\s+\[ *\d+%\]$")
_COUNT = re.compile(r"\[\d+\] ")
_REASON = re.compile(rf" ({_WORD}) \(")


def pytest_any(text: str) -> Outcomes:
    """`id PASSED`, `id PASSED [ 12%]`, `id XFAIL (reason)`, `PASSED id` and `FAILED id - message`.

    Ids keep their blanks, and a reason is none of theirs. Of several outcomes of an id the worst counts: a
    test that passes and whose clean-up fails is told as both.
    """
    outcomes: Outcomes = {}
    for line in lines_of(text):
        line = ANSI.sub("", line).rstrip()
        told = _in_summary(line) or _in_progress(line)
        if told:
            test, outcome = told
            outcomes[test] = worse(outcomes.get(test), outcome)
    return outcomes


def _in_summary(line: str) -> tuple[str, Outcome] | None:
    match = _SUMMARY.match(line)
    if match is None or (match[1] == "SKIPPED" and _COUNT.match(match[2])):
        return None
    word, rest = match.groups()
    message = rest.find(" - ") if word != "PASSED" else -1
    if 0 <= rest.find("[") < message:  # parameters may hold the dash
        message = rest.find("] - ") + 1 or -1
    return (rest[:message] if message > 0 else rest), _OUTCOMES[word]


def _in_progress(line: str) -> tuple[str, Outcome] | None:
    line = _PERCENT.sub("", line)
    test, _, word = line.rpartition(" ")
    if word not in _OUTCOMES and line.endswith(")"):
        reason = next(_REASON.finditer(line), None)
        test, word = (line[: reason.start()], reason[1]) if reason else ("", "")
    return (test, _OUTCOMES[word]) if word in _OUTCOMES and "::" in test else None
