"""Formats that tell a test and its outcome on one line, of C, Go, Java, JavaScript, PHP, Ruby and Rust."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trieline.envs.swe.log_parsers.outcome import (
    FAILED,
    PASSED,
    SKIPPED,
    Allowance,
    Outcome,
    Outcomes,
    lines_of,
)


@dataclass(frozen=True, slots=True)
class LineFormat:
    """A parser of stripped lines, each matched from its start; words that are not listed tell nothing."""

    pattern: re.Pattern[str]
    """Groups `word` and `id`."""
    outcomes: Mapping[str, Outcome]

    def __call__(self, text: str) -> Outcomes:
        """The last line of an id counts."""
        outcomes: Outcomes = {}
        for match in matches(self.pattern, text):
            outcome = self.outcomes.get(match["word"])
            if outcome is not None:
                outcomes[match["id"]] = outcome
        return outcomes


def matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The stripped lines that begin as the pattern says."""
    for line in lines_of(text):
        if match := pattern.match(line.strip()):
            yield match


def _format(pattern: str, **words: str) -> LineFormat:
    """For each outcome, in small letters, the words that mean it, separated by bars."""
    outcomes = {word: Outcome(name.upper()) for name, bars in words.items() for word in bars.split("|")}
    return LineFormat(re.compile(pattern), outcomes)


# `(?=.*\)$)` stands where the line has to end with a bracket: without it each `(` would be tried in vain.
gotest = _format(
    r"--- (?P<word>PASS|FAIL|SKIP): (?=.*\)$)(?P<id>.+) \(.+\)$", passed="PASS", failed="FAIL", skipped="SKIP"
)
cargo = _format(r"test\s+(?P<id>\S+)\s+\.\.\.\s+(?P<word>\w+)$", passed="ok", failed="FAILED")
ant = _format(r"\[junit\]\s+\[(?P<word>PASS|FAIL|ERR)\]\s+(?P<id>.*)$", passed="PASS", failed="FAIL|ERR")
jq = _format(r"(?P<word>PASS|FAIL):\s(?P<id>.+)$", passed="PASS", failed="FAIL")
micropython = _format(r"(?P<word>pass|FAIL|skip)\s+(?P<id>.+)$", passed="pass", failed="FAIL", skipped="skip")
cucumber = _format(r"(?P<id>.*) \.+(?P<word>\.|F)", passed=".", failed="F")
ruby_unit = _format(
    r"(?:test: )?(?P<id>.+):\s+(?P<word>\.|E\b|F\b|O\b)", passed=".", failed="E|F", skipped="O"
)
rspec = _format(r"(?P<id>.+) - (?P<word>passed|failed)", passed="passed", failed="failed")
tap = _format(r"(?P<word>ok|not ok) \d+ (?P<id>.+)$", passed="ok", failed="not ok")
jest_json = _format(r"\[(?P<word>PASSED|FAILED)\]\s(?P<id>.+)$", passed="PASSED", failed="FAILED")
vitest = _format(
    r"(?P<word>✓|×|↓)\s(?P<id>.+?)(?:\s(?:\d+\s*m?s?|\[skipped\]))?$", passed="✓", failed="×", skipped="↓"
)

_JEST = re.compile(r"(?P<word>✓|✕|○)\s(?P<id>.+?)(?:\s\(\d+\s*m?s\))?$")
_JEST_WORDS = {"✓": PASSED, "✕": FAILED, "○": SKIPPED}


def jest(text: str) -> Outcomes:
    """`✓ name (5 ms)`."""
    return {match["id"].strip(): _JEST_WORDS[match["word"]] for match in matches(_JEST, text)}


_REDIS = re.compile(r"\[(?P<word>ok|err|skip|ignore)\]:\s(?P<id>.+?)(?:\s\(\d+\s*m?s\))?$")
_IN_FILE = re.compile(r"(?<!\s)\s+in\s+\S+$")


def redis(text: str) -> Outcomes:
    """`[ok]: name (5 ms)`, `[err]: name in file`."""
    outcomes: Outcomes = {}
    for match in matches(_REDIS, text):
        if match["word"] == "err":
            outcomes[_IN_FILE.sub("", match["id"])] = FAILED
        else:
            outcomes[match["id"]] = PASSED if match["word"] == "ok" else SKIPPED
    return outcomes


_GOOGLETEST = re.compile(r"\[\s*(OK|FAILED)\s*\]\s")
_BRACKET = re.compile(r"\s\(")


def googletest(text: str) -> Outcomes:
    """`[       OK ] Suite.Test (5 ms)`; of several words in brackets the last before the time counts."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        line = line.strip()
        if not line.endswith(")"):
            continue
        time = max((match.start() for match in _BRACKET.finditer(line)), default=-1)
        words = [match for match in _GOOGLETEST.finditer(line) if match.end() <= time]
        if words:
            outcomes[line[words[-1].end() : time]] = PASSED if words[-1][1] == "OK" else FAILED
    return outcomes


def minitest(text: str) -> Outcomes:
    """`Class#name. = 0.01 s = .`, where the last `.`, `F` or `E` of the line is the outcome."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        line = line.strip()
        word = max(line.rfind("."), line.rfind("F"), line.rfind("E"))
        equals = line.rfind("=", 0, max(word, 0))
        end = line.rfind(". ", 1, max(equals, 0))
        if end > 0:
            outcomes[line[:end]] = PASSED if line[word] == "." else FAILED
    return outcomes


_TEST_OPTION = re.compile(r".*-Dtest=(\S+)")
_BUILD = re.compile(r".*BUILD (SUCCESS|FAILURE)$")


def maven(text: str) -> Outcomes:
    """One build a test: commands with `-Dtest=name`, each answered by the next `BUILD SUCCESS` or `FAILURE`.

    A result that comes before any command waits for one that is left without.
    """
    outcomes: Outcomes = {}
    waiting: deque[str] = deque()
    early: deque[Outcome] = deque()
    for line in lines_of(text):
        line = line.strip()
        if command := _TEST_OPTION.match(line):
            waiting.append(command[1])
        if build := _BUILD.match(line):
            outcome = PASSED if build[1] == "SUCCESS" else FAILED
            if waiting:
                outcomes[waiting.popleft()] = outcome
            else:
                early.append(outcome)
    outcomes.update(zip(waiting, early, strict=False))
    return outcomes


_GRADLE_TEST = re.compile(r"[^>]\S*\s+>\s+\S+$")


def gradle(text: str) -> Outcomes:
    """`Class > test PASSED`, or the word alone some lines below the test."""
    outcomes: Outcomes = {}
    waiting: str | None = None
    for line in lines_of(text):
        line = line.strip()
        word = next((word for word in (PASSED, FAILED) if line.endswith(word)), None)
        name = line[: -len(word) - 1] if word else ""
        if word and len(name) > 1 and name[0] != ">" and line[len(name)].isspace():
            outcomes[name] = word
            waiting = None
        elif _GRADLE_TEST.match(line):
            waiting = line
        elif word and line == word and waiting:
            outcomes[waiting] = word
            waiting = None
    return outcomes


_PHP_SUITE = re.compile(r"(?=.*\)$)(\w.+) \(.+\)$")
_PHP_TEST = re.compile(r"\s*([✔✘↩])\s*(.*)")
_PHP_WORDS = {"✔": PASSED, "✘": FAILED, "↩": SKIPPED}


def phpunit(text: str) -> Outcomes:
    """`--testdox`: the suite `Name (Namespace\\Name)`, then ` ✔ test`."""
    outcomes: Outcomes = {}
    allowance = Allowance()
    suite = "None"
    for line in lines_of(text):
        if heading := _PHP_SUITE.match(line):
            suite = heading[1]
        elif test := _PHP_TEST.match(line):
            outcomes[allowance.spend(f"{suite} > {test[2]}")] = _PHP_WORDS[test[1]]
    return outcomes


_FILE = re.compile(r"(PASS|FAIL)\s(.*)")
_FILE_TIMES = [re.compile(rf"(.*)\s\([\d.]+{unit}\)") for unit in ("ms", r"\ss", "s")]


def jest_files(text: str) -> Outcomes:
    """One line a file of tests: `PASS path (1.5 s)`."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        if file := _FILE.match(line):
            timed = (pattern.match(file[2]) for pattern in _FILE_TIMES)
            name = next((match[1] for match in timed if match), file[2])
            outcomes[name] = PASSED if file[1] == "PASS" else FAILED
    return outcomes


_END_TIME = re.compile(r"\s\([\d.]+\s?(?:ms|s)\)$")


def emotion(text: str) -> Outcomes:
    """As `jest_files`, with the time in the id; a file that passes anywhere has passed."""
    outcomes: Outcomes = {}
    for word, outcome in (("FAIL", FAILED), ("PASS", PASSED)):
        for match in re.finditer(rf"^{word}\s(.*)", text, re.MULTILINE):
            outcomes[match[1].strip()] = outcome
    return outcomes


def grommet(text: str) -> Outcomes:
    """As `emotion`, without the time."""
    outcomes: Outcomes = {}
    for word, outcome in (("FAIL", FAILED), ("PASS", PASSED)):
        for match in re.finditer(rf"^{word}\s(.*)", text, re.MULTILINE):
            outcomes[_END_TIME.sub("", match[1].strip())] = outcome
    return outcomes


_NUMBERED = re.compile(r"\d+\)\s(.*)")


def marked(text: str) -> Outcomes:
    """Jasmine's list of failures, `1) name`; what passed is not told."""
    found = (_NUMBERED.match(line) for line in lines_of(text))
    return {match[1].strip(): FAILED for match in found if match}


_TEMPORARY = (re.compile(r"/tmp/(\w+)\.qmd"), re.compile(r"/tmp/(\w+)/"))
_QUARTO_TEST = re.compile(r"\[(smoke|unit)\]")


def quarto(text: str) -> Outcomes:
    """`[unit] > name ... ok` in colours; temporary names are numbered; a test without a word has failed."""
    outcomes: Outcomes = {}
    numbers: dict[str, int] = {}
    for line in lines_of(text):
        if "ERRORS" in line or "failures:" in line:
            break
        if not _QUARTO_TEST.search(line):
            continue
        for pattern in _TEMPORARY:
            if name := pattern.search(line):
                line = pattern.sub(f"/tmp/{numbers.setdefault(name[0], len(numbers))}", line)
        test_id = line.split("...", 1)[0].strip()
        counts = all(word in line for word in ("passed", "failed", "steps"))
        if counts or line.startswith("test result:") or "34mINFO" in line:
            continue
        if "32mok" in line:
            outcomes[test_id] = PASSED
        elif "31mFAILED" in line:
            outcomes[test_id] = FAILED
        else:
            outcomes.setdefault(test_id, FAILED)
    return outcomes
