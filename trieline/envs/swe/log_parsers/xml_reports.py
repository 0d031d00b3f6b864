"""Reports in XML: doctest's (C++) and JUnit's, which most runners of most languages can write.

Read by expat as a stream. A document type is refused, and with it every entity but XML's own five; what is
nested deeper than `DEEPEST` is refused too.
"""

from dataclasses import dataclass, field
from typing import Protocol
from xml.parsers import expat

from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers.outcome import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    Allowance,
    Outcome,
    Outcomes,
)

DEEPEST = 100
"""Elements inside each other."""
MOST_REPORTS = 1000
"""Documents in one log. Each costs a reader of its own and a piece read beyond its end."""
PIECE = 4096
"""Bytes."""


class Report(Protocol):
    """What a kind of report does at each element; the text between them tells nothing."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...


def read_document(data: bytes, begin: int, report: Report) -> int:
    """Read the document that begins there; return a place at its end from which to go on. Raises LogError."""
    parser = expat.ParserCreate(namespace_separator="}")
    depth, last = 0, -1

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            msg = f"elements of a test report are nested deeper than {DEEPEST}"
            raise LogError(msg)
        report.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth, last
        depth -= 1
        report.end(name)
        if depth == 0:
            last = parser.CurrentByteIndex

    def refuse(*_: object) -> None:
        msg = "a test report has a document type"
        raise LogError(msg)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    place = begin
    try:
        while last < 0:
            parser.Parse(data[place : place + PIECE], place >= len(data))
            place += PIECE
    except expat.ExpatError as error:
        if last < 0:  # else it is about the log that goes on behind the document
            msg = f"a test report is no XML: {error}"
            raise LogError(msg) from error
    return begin + max(last, 1)


@dataclass(slots=True)
class _Doctest:
    """A subcase passes when every expression in it is true."""

    tests: list[tuple[str, int]] = field(default_factory=list)
    """Id and the number of its subcase."""
    passed: list[bool] = field(default_factory=list)
    """Of each subcase."""
    _cases: list[str | None] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)
    _allowance: Allowance = field(default_factory=Allowance)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "TestCase":
            self._cases.append(attributes.get("name"))
        elif name == "SubCase":
            self._open.append(len(self.passed))
            for case in self._cases:
                test = self._allowance.spend(f"{case} > {attributes.get('name')}")
                self.tests.append((test, len(self.passed)))
            self.passed.append(True)
        elif name == "Expression" and attributes.get("success") != "true":
            for subcase in self._open:
                self.passed[subcase] = False

    def end(self, name: str) -> None:
        if name == "TestCase":
            self._cases.pop()
        elif name == "SubCase":
            self._open.pop()


def doctest(text: str) -> Outcomes:
    """`-s -r=xml`: each subcase of each test case. Raises LogError for XML that is broken or cut."""
    start = text.find("<doctest")
    if start < 0:
        return {}
    end = text.find("</doctest>", start)
    if end < 0:
        msg = "expected </doctest> after <doctest"
        raise LogError(msg)
    report = _Doctest()
    read_document(text[start : end + len("</doctest>")].encode("utf-8", "surrogatepass"), 0, report)
    return {test: PASSED if report.passed[subcase] else FAILED for test, subcase in report.tests}


_WORSE = [Outcome.UNCLEAR, PASSED, Outcome.XFAIL, SKIPPED, FAILED, ERROR]


def worse(one: Outcome | None, other: Outcome) -> Outcome:
    """The outcome of a test that is told twice: the one that speaks against it."""
    return other if one is None else max(one, other, key=_WORSE.index)


@dataclass(slots=True)
class _JUnit:
    """A test passes when nothing in it says otherwise."""

    outcomes: Outcomes = field(default_factory=dict)
    _test: str = ""
    _outcome: Outcome = PASSED

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "testcase":
            path = attributes.get("classname", ""), attributes.get("name", "")
            self._test, self._outcome = "::".join(filter(None, path)), PASSED
        elif name in ("failure", "error"):
            self._outcome = worse(self._outcome, FAILED if name == "failure" else ERROR)
        elif name == "skipped":
            expected = attributes.get("type") == "pytest.xfail"
            self._outcome = worse(self._outcome, Outcome.XFAIL if expected else SKIPPED)

    def end(self, name: str) -> None:
        if name == "testcase":
            self.outcomes[self._test] = worse(self.outcomes.get(self._test), self._outcome)


def junit_xml(text: str) -> Outcomes:
    """Every `<testsuites>` or `<testsuite>` document in the text, as `class::name`. Raises LogError."""
    data = text.encode("utf-8", "surrogatepass")
    report = _JUnit()
    place = count = 0
    while (start := data.find(b"<testsuite", place)) >= 0:
        count += 1
        if count > MOST_REPORTS:
            msg = f"expected at most {MOST_REPORTS} test reports in a log"
            raise LogError(msg)
        place = read_document(data, start, report)
    return report.outcomes
