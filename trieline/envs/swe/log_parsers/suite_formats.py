"""Formats of JavaScript's runners in which a test's id begins with the titles of the suites around it."""

import json
import re
from collections.abc import Iterator

from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers.outcome import (
    FAILED,
    PASSED,
    Allowance,
    Outcome,
    Outcomes,
    Suites,
    lines_of,
)

ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")


def _after_each(text: str, command: str) -> list[str]:
    """What the runs of a command wrote, where the shell repeats the command itself."""
    return text.split(command)[1:]


_MILLISECONDS = re.compile(r"\(\d+ms\)")
_CALYPSO_TESTS = (("✓", PASSED), ("✕", FAILED))


def calypso(text: str) -> Outcomes:
    """jest's tree of tests, up to its list of failures. Raises LogError for a test that is not indented."""
    outcomes: Outcomes = {}
    suites = Suites()
    for run in _after_each(text, " ./node_modules/.bin/jest "):
        for line in lines_of(run):
            if line.startswith(("Test Suites", "  ● ")):
                break
            mark = next((mark for mark in _CALYPSO_TESTS if line.lstrip().startswith(mark[0])), None)
            if mark is None:
                suites.enter(line)
            else:
                name = _calypso_name(line, mark[0])
                outcomes[f"{suites.path()} - {name}".strip()] = mark[1]
    return outcomes


def _calypso_name(line: str, mark: str) -> str:
    time = r"\(\d+ms\)$" if _MILLISECONDS.search(line) else ""
    match = re.match(rf"\s+{mark}\s(.*){time}", line)
    if match is None:
        msg = f"expected blanks, {mark}, a name and at the end its time, got {line[:200]!r}"
        raise LogError(msg)
    return match[1]


_ASSERTION = re.compile(r"AssertionError:\s+#")


def _without_assertions(text: str) -> str:
    """Without what an assertion prints, up to the next empty line."""
    kept, place = [], 0
    while (start := _ASSERTION.search(text, place)) and (end := text.find("\n\n", start.end())) >= 0:
        kept.append(text[place : start.start()])
        place = end + 2
    return "".join([*kept, text[place:]])


def next_karma(text: str) -> Outcomes:
    """Karma's tree of tests after each start of the browser."""
    outcomes: Outcomes = {}
    suites = Suites()
    for run in _after_each(_without_assertions(ANSI.sub("", text)), " xvfb-run "):
        for line in lines_of(run.rsplit("Starting browser Chrome", 1)[-1]):
            if line.startswith("TOTAL"):
                break
            if line.lstrip().startswith(("ERROR", "LOG", "WARN", "Check", "in")):
                continue
            mark = next((mark for mark in (("✗", FAILED), ("✓", PASSED)) if mark[0] in line), None)
            if mark is None:
                suites.enter(line)
            else:
                outcomes[suites.test(line.split(mark[0], 1)[1].lstrip())] = mark[1]
    return outcomes


_NEXT_SUITE = re.compile(r"\)\n{3}\s{2}(.*)\n")
_NEXT_TESTS = (
    (re.compile(r"^\s{4}\d+\)\s(.*)", re.MULTILINE), FAILED),
    (re.compile(r"^\s{4}✓\s(.*)\(", re.MULTILINE), PASSED),
)


def next_cypress(text: str) -> Outcomes:
    """`Running: file (1 of 9)`, the suite, and its tests."""
    outcomes: Outcomes = {}
    allowance = Allowance()
    headings = list(_next_headings(text))
    ends = [start for start, _, _ in headings[1:]] + [len(text)]
    for (_, begin, suite), end in zip(headings, ends, strict=False):
        tests = text[begin:end]
        for pattern, outcome in _NEXT_TESTS:
            for match in pattern.finditer(tests):
                outcomes[allowance.spend(f"{suite}: {match[1].strip()}")] = outcome
    return outcomes


def _next_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and suite of each heading."""
    place = done = 0
    while heading := _NEXT_SUITE.search(text, place):
        line = max(text.rfind("\n", done, heading.start()) + 1, done)
        start = text.find("Running:", line, heading.start())
        place = heading.start() + 1
        if start >= 0:
            yield start, heading.end(), heading[1]
            place = done = heading.end()


_LIGHTHOUSE_RUN = re.compile(r"running\s\d+\stest\sfiles")
_LIGHTHOUSE_END = re.compile(r"(?<!\d)\d+\spassing")
_LIGHTHOUSE_TEST = re.compile(r"(✔|\d+\))\s(.*)")
_LIGHTHOUSE_TIME = re.compile(r"(.*)\s\(\d+m+s\)")


def lighthouse_mocha(text: str) -> Outcomes:
    """Mocha's tree of tests, up to its counts."""
    outcomes: Outcomes = {}
    for run in _LIGHTHOUSE_RUN.split(text)[1:]:
        suites = Suites()
        for line in lines_of(_LIGHTHOUSE_END.split(run, maxsplit=1)[0].strip()):
            if test := _LIGHTHOUSE_TEST.match(line.strip()):
                timed = _LIGHTHOUSE_TIME.match(test[2])
                outcomes[suites.test(timed[1] if timed else test[2])] = PASSED if test[1] == "✔" else FAILED
            else:
                suites.enter(line)
    return outcomes


_MOCHA_COUNTS = re.compile(r"\n[ \t]*\d+ passing")
_MOCHA_NUMBER = re.compile(r"\d+\)")


def highlightjs(text: str) -> Outcomes:
    """Mocha's tree of tests, up to its counts; the title above a test is its suite."""
    outcomes: Outcomes = {}
    allowance = Allowance()
    counts = _MOCHA_COUNTS.search(text)
    suite = ""
    for line in lines_of(text[: counts.start()] if counts else text):
        stripped = line.strip()
        passed = stripped.startswith(("✓", "✔"))
        if passed or _MOCHA_NUMBER.match(stripped):
            mark = stripped[0] if passed else ")"
            name = _MILLISECONDS.sub("", line.split(mark, 1)[1]).strip()
            outcomes[allowance.spend(suite + name)] = PASSED if passed else FAILED
        elif line.startswith("  "):
            suite = f"{stripped}."
    return outcomes


_KARMA = re.compile(r"(\s*)([✔✖])?\s(.*)")


def karma(text: str) -> Outcomes:
    """Karma's tree of tests between the start of the browser and `SUMMARY:`.

    Raises LogError where the tree goes out of more suites than it went into.
    """
    outcomes: Outcomes = {}
    allowance = Allowance()
    titles: list[str] = []
    indent, started = -1, False
    for line in lines_of(text):
        if line.startswith("SUMMARY:"):
            break
        if "Starting browser" in line:
            started = True
            continue
        match = _KARMA.match(line) if started else None
        if match is None:
            continue
        if match[2]:
            outcome = PASSED if match[2] == "✔" else FAILED
            outcomes[allowance.spend(" > ".join([*titles, match[3]]))] = outcome
        elif (deeper := len(match[1])) > max(indent, 0):
            titles.append(match[3])
            indent = deeper
        elif 0 < deeper < indent:
            if not titles:
                msg = f"a line goes out of a suite where none is open: {line[:200]!r}"
                raise LogError(msg)
            titles.pop()
            indent = deeper
    return outcomes


_PLOTLY = re.compile(r"(\s+)([-*])\s+")
_PLOTLY_NAME_END = re.compile(r"\s:")


def plotly(text: str) -> Outcomes:
    """`- suite :` and below it `* test : ok`."""
    outcomes: Outcomes = {}
    allowance = Allowance()
    titles: list[str] = []
    depth = 0
    for line in lines_of(text):
        head = _PLOTLY.match(line)
        end = _PLOTLY_NAME_END.search(line, head.end()) if head else None
        if head is None or end is None:
            continue
        name = line[head.end() : end.start()].rstrip()
        if len(head[1]) <= depth:
            titles.clear()
        if head[2] == "-":
            titles.append(name)
            depth = len(head[1])
        else:
            status = line[end.end() :].lower()
            outcome = PASSED if "ok" in status and "failed" not in status else FAILED
            outcomes[allowance.spend(".".join([*titles, name]))] = outcome
    return outcomes


_FULL_TITLE = re.compile(r'"fullTitle":\s"')


def _full_titles(report: str, outcome: Outcome) -> Outcomes:
    """Of a list in Mocha's JSON: one title a line."""
    outcomes: Outcomes = {}
    for line in report.split("\n")[:-1]:
        start = _FULL_TITLE.search(line)
        if start and line.endswith('",') and start.end() <= len(line) - 2:
            outcomes[line[start.end() : -2]] = outcome
    return outcomes


def cypress(text: str) -> Outcomes:
    """Mocha's JSON, several reports each followed by a path that goes up."""
    outcomes: Outcomes = {}
    for report in text.split("../..")[:-1]:
        passes = report.rsplit('  "passes": [', 1)[-1].rsplit("  }", 1)[0]
        failures = report.rsplit('  "failures": [', 1)[-1].rsplit("  ],", 1)[0]
        outcomes |= _full_titles(passes, PASSED) | _full_titles(failures, FAILED)
    return outcomes


def lighthouse_json(text: str) -> Outcomes:
    """Mocha's JSON after each command."""
    outcomes: Outcomes = {}
    for report in _after_each(text, "./node_modules/.bin/mocha --reporter json"):
        passes = report.rsplit('"passes": [', 1)[-1].rsplit("]", 1)[0]
        failures = report.rsplit('"failures": [', 1)[-1].rsplit("],", 1)[0]
        outcomes |= _full_titles(passes, PASSED) | _full_titles(failures, FAILED)
    return outcomes


def prismjs(text: str) -> Outcomes:
    """Mocha's JSON after each command, read as JSON. Raises LogError for what is none."""
    outcomes: Outcomes = {}
    for report in _after_each(text, "./node_modules/.bin/mocha tests/run.js --reporter json"):
        start, end = report.find("{") + 1, report.rfind("}")
        try:
            results = json.loads("{" + (report[start:end] if end >= start else report[start:]) + "}")
            for word, outcome in (("failures", FAILED), ("passes", PASSED)):
                outcomes |= {test["fullTitle"]: outcome for test in results[word]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            msg = f"expected Mocha's JSON: {type(error).__name__}: {error}"
            raise LogError(msg) from error
    return outcomes
