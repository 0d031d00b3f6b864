"""The changes within one file of a git diff: hunks, each with exactly the lines that its header counts."""

import re
from dataclasses import dataclass
from typing import NoReturn

from trieline.common.text import shortened
from trieline.envs.errors import PatchError

HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@.*", re.DOTALL)
NO_NEWLINE = b"\\ No newline at end of file"
MOST_LOST_LINES = 3
"""Of context after the last change, as `git diff` writes it: what an `rstrip()` of a patch can cut off."""


class Lines:
    """The lines of a patch, read once from first to last."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.split(b"\n")
        if not self._lines[-1]:
            self._lines.pop()
        self.number = 0
        """Of the line that was taken last, from 1."""

    def __bool__(self) -> bool:
        return self.number < len(self._lines)

    def peek(self, ahead: int = 0) -> bytes:
        """A line to come without the carriage return at its end; empty after the last one."""
        at = self.number + ahead
        return self._lines[at].removesuffix(b"\r") if at < len(self._lines) else b""

    def take(self) -> bytes:
        """The next line as it is."""
        self.number += 1
        return self._lines[self.number - 1]

    def refuse(self, expected: str) -> NoReturn:
        """Say that the patch is not as expected at the line that was taken last. Raises PatchError."""
        came = self._lines[self.number - 1].decode("utf-8", "replace") if self.number else ""
        msg = f"line {self.number}: expected {expected}, got {shortened(came, 80)!r}"
        raise PatchError(msg, cause="corrupt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hunks:
    """All hunks of a file."""

    lines: list[bytes]
    """As they came, headers among them, without the line end that is the patch's own."""
    restored: int
    """Empty lines of context that were put back at the end of the patch."""
    uncounted: int
    """Lines that look like changes after all that a header counts; left out, as git leaves them out."""


def read_hunks(lines: Lines) -> Hunks:
    """The hunks from here on, none if the next line begins none.

    Raises:
        PatchError: `corrupt`: a header counts other lines than there are.
    """
    taken: list[bytes] = []
    restored = uncounted = 0
    while match := HUNK.fullmatch(lines.peek()):
        taken.append(lines.take().removesuffix(b"\r"))
        restored = _read_hunk(lines, match, taken)
        uncounted += _skip_uncounted(lines)
    return Hunks(lines=taken, restored=restored, uncounted=uncounted)


def _read_hunk(lines: Lines, header: re.Match[bytes], taken: list[bytes]) -> int:
    """Take the lines that `header` counts; how many it put back at the end."""
    start, (old, new) = lines.number, (int(header[2] or 1), int(header[4] or 1))
    counts = f"{old} old and {new} new lines, as the header in line {start} says"
    if not old + new:
        lines.refuse("a hunk with lines in it")
    while old or new:
        if not lines:
            if old != new or old > MOST_LOST_LINES:
                lines.refuse(f"{counts}; the patch ends after this line")
            ending = b"\r" if taken[-1].endswith(b"\r") else b""
            taken += [b" " + ending] * old
            return old
        line = lines.take()
        kind = line[:1]
        if line in {b"", b"\r"}:  # an empty line of context whose space an editor took away
            kind, line = b" ", b" " + line
        if kind not in {b" ", b"-", b"+", b"\\"}:
            lines.refuse(counts)
        old -= kind in {b" ", b"-"}
        new -= kind in {b" ", b"+"}
        if old < 0 or new < 0:
            lines.refuse(f"{counts}, in this order")
        taken.append(NO_NEWLINE if kind == b"\\" else line)
    if lines.peek().startswith(b"\\ "):
        lines.take()
        taken.append(NO_NEWLINE)
    return 0


def _skip_uncounted(lines: Lines) -> int:
    """Pass over what follows a complete hunk and would belong to it, had its header counted more."""
    start = lines.number
    while lines.peek()[:1] in {b" ", b"-", b"+"} and not begins_file(lines) and lines.peek() != b"-- ":
        lines.take()
    return lines.number - start


def begins_file(lines: Lines) -> bool:
    """Whether a file begins here that has no `diff --git` line, as `diff -u` writes it."""
    return (
        lines.peek().startswith(b"--- ")
        and lines.peek(1).startswith(b"+++ ")
        and lines.peek(2).startswith(b"@@ -")
    )
