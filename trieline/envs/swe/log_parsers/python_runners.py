"""pytest's short summary in its variants, and the runners of Django and SymPy."""

import re
from collections.abc import Iterator

from trieline.envs.errors import LogError
from trieline.envs.swe.log_parsers.outcome import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    WORDS,
    LineEnds,
    Outcome,
    Outcomes,
    lines_of,
    outcome_of,
)

LONGEST_RESULT = 2**20
"""Characters of a line that can be a result where all words of the line are its id."""

_COUNT = re.compile(r"\[\d+\]$")
_COLOUR = re.compile(r"\[\d+m")
_CONTROLS = str.maketrans("", "", "".join(map(chr, range(1, 32))))


def _is_count(word: str, name: str) -> bool:
    """`SKIPPED [3] path:line: reason` tells of three tests and names none."""
    return word == "SKIPPED" and _COUNT.match(name) is not None


def _summary(text: str) -> Iterator[tuple[str, Outcome]]:
    """Lines `OUTCOME id - message`; the id ends at the first blank."""
    for line in lines_of(text):
        if line.startswith(WORDS):
            if line.startswith("FAILED"):
                line = line.replace(" - ", " ")
            words = line.split(maxsplit=2)
            if len(words) > 1 and not _is_count(words[0], words[1]):
                yield words[1], outcome_of(words[0])


def pytest(text: str) -> Outcomes:
    """The summary as it is."""
    return dict(_summary(text))


def pytest_options(text: str) -> Outcomes:
    """The summary, where a parameter that is a path counts by its last part: the folder is a random one."""
    return {_short_option(name): outcome for name, outcome in _summary(text)}


def _short_option(name: str) -> str:
    start, end = name.find("["), name.rfind("]")
    if start < 0 or end < start:
        return name
    option = name[start + 1 : end]
    if option.startswith("/") and not option.startswith("//") and "*" not in option:
        option = "/" + option.rsplit("/", 1)[-1]
    return f"{name[:start]}[{option}]"


def matplotlib(text: str) -> Outcomes:
    """The summary; the buttons of the mouse are numbers in the ids of the tasks."""
    return pytest(text.replace("MouseButton.LEFT", "1").replace("MouseButton.RIGHT", "3"))


def pytest_v2(text: str) -> Outcomes:
    """`OUTCOME id` and `id OUTCOME`, coloured or not; the id may hold blanks, and the reason of an xfail."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        if len(line) > LONGEST_RESULT:
            continue
        line = _COLOUR.sub("", line).translate(_CONTROLS)
        if line.startswith(WORDS):
            if line.startswith("FAILED"):
                line = line.split(" - ", 1)[0]
            words = line.split()
            if len(words) > 1 and not _is_count(words[0], words[1]):
                outcomes[" ".join(words[1:])] = outcome_of(words[0])
        elif line.endswith(WORDS):
            words = line.split()
            if len(words) > 1:
                outcomes[" ".join(words[:-1])] = outcome_of(words[-1])
    return outcomes


def seaborn(text: str) -> Outcomes:
    """`id PASSED [ 12%]` while it runs, `FAILED id` and `PASSED id` in the summary."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        words = line.split(maxsplit=2)
        if len(words) < 2:
            continue
        if line.startswith("FAILED"):
            outcomes[words[1]] = FAILED
        elif " PASSED " in line:
            if words[1] == "PASSED":
                outcomes[words[0]] = PASSED
        elif line.startswith("PASSED"):
            outcomes[words[1]] = PASSED
    return outcomes


def sympy(text: str) -> Outcomes:
    """`test_name ok`, `F` or `E`; headings `____ path.py:test_name ____` tell of failures."""
    outcomes: Outcomes = {}
    for line in lines_of(text):
        first, last = line.find(" "), line.rfind(" ")
        dot = line.rfind(".py:", first + 1, last) if first >= 0 else -1
        if dot >= 0:
            outcomes[f"{line[first + 1 : dot]}.py:{line[dot + 4 : last]}"] = FAILED
    for line in lines_of(text):
        line = line.strip()
        if line.startswith("test_"):
            for ending, outcome in ((" E", ERROR), (" F", FAILED), (" ok", PASSED)):
                if line.endswith(ending):
                    outcomes[line.split(maxsplit=1)[0]] = outcome
    return outcomes


_OK = (" ... ok", " ... OK", " ...  OK")
_TWO_ON_A_LINE = "Applying sites.0002_alter_domain_unique...test_no_migrations"
"""A migration of django-7188 whose progress shares a line with a test."""
_PRINTED = "--version is equivalent to version"
"""A docstring that is an id, in a test whose result stands on another line."""


def django(text: str) -> Outcomes:
    """unittest's `test (module.Class) ... ok`, where what a test prints may stand before its `ok`."""
    outcomes: Outcomes = {}
    running: str | None = None
    for line in lines_of(text):
        line = line.strip()
        if _PRINTED in line:
            outcomes[_PRINTED] = PASSED
        if " ... " in line:
            running = line.split(" ... ", 1)[0]
        ending = next((ending for ending in _OK if line.endswith(ending)), None)
        if ending is not None:
            if line.startswith(_TWO_ON_A_LINE):
                line = line.split("...", 1)[-1].strip()
            outcomes[line.rsplit(ending, 1)[0]] = PASSED
        if " ... skipped" in line:
            outcomes[line.split(" ... skipped", 1)[0]] = SKIPPED
        for word, outcome in (("FAIL", FAILED), ("ERROR", ERROR)):
            if line.endswith(f" ... {word}"):
                outcomes[line.split(f" ... {word}", 1)[0]] = outcome
            if line.startswith(f"{word}:"):
                outcomes[_second_word(line)] = outcome
        if line.startswith("ok") and running is not None:
            outcomes[running] = PASSED
    outcomes.update(dict.fromkeys(_interrupted(text), PASSED))
    return outcomes


def _second_word(line: str) -> str:
    words = line.split(maxsplit=2)
    if len(words) < 2:
        msg = f"expected a test after {line!r}"
        raise LogError(msg)
    return words[1]


_TESTING_AGAINST = re.compile(r"\s\.\.\.\sTesting against Django installed in ")
_SILENCED = re.compile(r" silenced\)\.\nok$", re.MULTILINE)
_SERVER_ERROR = re.compile(r"\s\.\.\.\sInternal Server Error: /")
_NO_ISSUES = re.compile(r"\s\.\.\.\sSystem check identified no issues \(0 silenced\)\nok$", re.MULTILINE)


def _interrupted(text: str) -> Iterator[str]:
    """Tests whose line goes on with a message of Django's and whose `ok` stands alone below."""
    place = 0
    while (head := _TESTING_AGAINST.search(text, place)) and (tail := _SILENCED.search(text, head.end())):
        if (start := _line_start(text, head.start())) >= place:
            yield text[start : head.start()]
        place = tail.end()
    place, ends = 0, LineEnds(text)
    while head := _SERVER_ERROR.search(text, place):
        place = ends.after(head.end())
        alone = text.startswith("\nok", place) and ends.after(place + 1) == place + len("\nok")
        if alone and text[head.end() : place].endswith("/"):
            yield text[_line_start(text, head.start()) : head.start()]
    for head in _NO_ISSUES.finditer(text):
        yield text[_line_start(text, head.start()) : head.start()]


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, place) + 1
