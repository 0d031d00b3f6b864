"""What a log says of a test, and what all readers of logs share.

The readers give what swebench 5.0.2 gives for the same text (https://github.com/SWE-bench/SWE-bench), but in
time linear in its length whatever it holds: no pattern here can be tried from many places over the same text.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum

from trieline.envs.errors import LogError

LONGEST_IDS = 64 * 2**20
"""Characters of all ids that are made of titles of suites. Only a log that means harm comes near it."""


class Outcome(StrEnum):
    """The words of pytest, which every format is told in."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"
    XFAIL = "XFAIL"
    UNCLEAR = "UNCLEAR"
    """A word that begins with one of the others, such as `ERROR:`. Such a test neither passes nor fails."""


Outcomes = dict[str, Outcome]
Parser = Callable[[str], Outcomes]

PASSED, FAILED, SKIPPED, ERROR = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.ERROR
WORDS = tuple(outcome.value for outcome in Outcome if outcome is not Outcome.UNCLEAR)


def outcome_of(word: str) -> Outcome:
    """The outcome of exactly this name."""
    return Outcome(word) if word in WORDS else Outcome.UNCLEAR


def lines_of(text: str) -> Iterator[str]:
    """`text.split("\\n")`, one line at a time."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


class LineEnds:
    """Where the line of a place in the text ends; the places asked for never go back."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = -1

    def after(self, place: int) -> int:
        """The index of the line feed at or after `place`, or of the end of the text."""
        if place > self._end:
            found = self._text.find("\n", place)
            self._end = found if found >= 0 else len(self._text)
        return self._end


class Allowance:
    """The ids of one log grow by titles of suites, and many tests under a long title by their product."""

    def __init__(self) -> None:
        self._left = LONGEST_IDS

    def spend(self, test_id: str) -> str:
        """The id itself. Raises LogError when all ids together are longer than `LONGEST_IDS`."""
        self._left -= len(test_id)
        if self._left < 0:
            msg = f"the ids of the log's tests are together longer than {LONGEST_IDS} characters"
            raise LogError(msg)
        return test_id


class Suites:
    """Titles of the suites that a line stands in, told by how far each is indented."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self._allowance = Allowance()

    def enter(self, line: str) -> None:
        """A line that is no test: the title of a suite, if it is indented at all."""
        indent = len(line) - len(line.lstrip())
        if indent > 0:
            while self._open and self._open[-1][0] >= indent:
                self._open.pop()
            self._open.append((indent, line.strip()))

    def path(self) -> str:
        """The titles, outermost first."""
        return self._allowance.spend(" - ".join(title for _, title in self._open))

    def test(self, name: str) -> str:
        """The id of a test in them."""
        return f"{self.path()} - {name}" if self._open else name
