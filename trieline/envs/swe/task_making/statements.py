"""What a task asks for, written as people write an issue, out of what can be seen: never out of the patch.

Of a mutated package nobody wrote an issue. What can be seen is a test that fails: what it does, and what
came. Of a release, the changelog says what it mends. No line that the patch adds or removes may stand in
either.
"""

import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from trieline.common.text import LINES, visible

MOST_SNIPPET_LINES = 30
MOST_ERROR_LINES = 12
MOST_FAILURES = 4
MOST_LINE = 300
SHORT_LINE = 8
"""Characters of a changed line up to which only a whole line counts as a copy: `else:` is everywhere."""

_TITLE = re.compile(r"_{3,} (\S.*?) _{3,}")
_SECTION = re.compile(r"={3,} .* ={3,}")
_COLLECTING = "ERROR collecting "
_HINT = "Use -v to get "
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What a log of pytest says of one test that failed."""

    title: str
    """`Class.test_name[parameters]`, or the path of a file that could not be imported."""
    error: tuple[str, ...]
    """The lines of the error itself; no line of the code that raised it."""


def failures_told(log: str) -> list[Failure]:
    """The failures of a log, in order."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in log.splitlines():
        if title := _TITLE.fullmatch(line):
            found.append((title[1].removeprefix(_COLLECTING), []))
            inside = True
        elif _SECTION.fullmatch(line):
            inside = False
        elif inside and line.startswith("E ") and line.strip("E ") and _HINT not in line:
            found[-1][1].append(line[1:])
    return [Failure(title=title, error=_moved_left(error)) for title, error in found]


def _moved_left(lines: Sequence[str]) -> tuple[str, ...]:
    margin = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    shown = [_ADDRESS.sub("0x...", visible(line[margin:], keep=LINES)).rstrip() for line in lines]
    return tuple(line if len(line) <= MOST_LINE else line[: MOST_LINE - 3] + "..." for line in shown)


def changed_lines(patch: str) -> frozenset[str]:
    """Of a git diff, the lines that it adds or removes, without the blanks around them; no empty ones."""
    changed = set()
    inside = False
    for line in patch.splitlines():
        if line.startswith("diff --git "):
            inside = False
        elif line.startswith("@@ "):
            inside = True
        elif inside and line[:1] in "+-" and line[1:].strip():
            changed.add(line[1:].strip())
    return frozenset(changed)


def tells(text: str, changed: Collection[str]) -> bool:
    """Whether a text holds one of the changed lines."""
    whole = {line.strip() for line in text.splitlines()}
    return any(line in whole or (len(line) > SHORT_LINE and line in text) for line in changed)


def without_told(lines: Iterable[str], changed: Collection[str]) -> list[str]:
    """The lines that hold none of the changed ones."""
    return [line for line in lines if not tells(line, changed)]


def seen_failing(
    package: str,
    version: str,
    failures: Sequence[Failure],
    snippet: str | None,
    changed: Collection[str],
    rng: random.Random,
) -> str:
    """The statement of a mutated package.

    Args:
        package: its name.
        version: of it.
        failures: of the tests that the patch mends, at least one with an error; the first is told in full.
        snippet: that test as it was typed.
        changed: lines that must not be told.
        rng: draws the words.
    """
    first, *others = [failure for failure in failures if failure.error]
    error = without_told(first.error, changed)[:MOST_ERROR_LINES] or ["an error"]
    topic = _topic(first.title)
    parts = [f"{package}: {rng.choice(_HEADLINES).format(topic=topic)}: {_cut(error[0], 120)}", ""]
    parts += [rng.choice(_OPENINGS).format(package=package, version=version), ""]
    if (
        snippet is not None
        and len(snippet.splitlines()) <= MOST_SNIPPET_LINES
        and not tells(snippet, changed)
    ):
        parts += [rng.choice(_STEPS), "", "```python", *snippet.splitlines(), "```", ""]
    parts += [rng.choice(_EXPECTED), "", rng.choice(_CAME), "", "```", *error, "```", ""]
    if others := others[: MOST_FAILURES - 1]:
        parts += [rng.choice(_MORE), ""]
        for other in others:
            said = without_told(other.error, changed)
            parts.append(f"- {_topic(other.title)}: `{_cut((said or ['an error'])[0], 160)}`")
        parts.append("")
    return "\n".join(parts)


def to_be_done(
    package: str,
    version: str,
    notes: Sequence[str],
    failures: Sequence[Failure],
    snippet: str | None,
    changed: Collection[str],
) -> str | None:
    """The statement of a release or a commit; None if nothing may be told.

    Args:
        package: its name.
        version: in which all this is still to be done.
        notes: lines of the changelog, or of the commit message, if there are any.
        failures: of the tests that the patch mends, as far as known.
        snippet: the first of these tests as it was typed.
        changed: lines that must not be told.
    """
    said = without_told((visible(line, keep=LINES).rstrip() for line in notes), changed)
    parts = [f"{package} {version}: to be done for the next release", ""]
    known = any(len(line.strip()) > SHORT_LINE for line in said)
    if known:
        parts += [*said, ""]
    if snippet is not None and _fits(snippet, changed):
        parts += ["This is to work, and does not yet:", "", "```python", *snippet.splitlines(), "```", ""]
        known = True
    shown = []
    for failure in [failure for failure in failures if failure.error][:MOST_FAILURES]:
        if error := without_told(failure.error, changed):
            shown.append(f"- {_topic(failure.title)}: `{_cut(error[0], 160)}`")
    if shown:
        parts += ["What can be seen of it at present:", "", *shown, ""]
    return "\n".join(parts) if known or shown else None


def _fits(snippet: str, changed: Collection[str]) -> bool:
    return len(snippet.splitlines()) <= MOST_SNIPPET_LINES and not tells(snippet, changed)


def _topic(title: str) -> str:
    """What a test is about, by its name."""
    name = title.rsplit("/", 1)[-1].partition("[")[0].split(".")[-1] if not title.endswith(".py") else title
    return name.removeprefix("test").strip("_").replace("_", " ") or title


def _cut(text: str, most: int) -> str:
    return text.replace("`", "'") if len(text) <= most else text[: most - 3].replace("`", "'") + "..."


_HEADLINES = ("{topic} is broken", "unexpected result for {topic}", "{topic} does not work as it should")
_OPENINGS = (
    "With {package} {version} I get something that can't be right.",
    "This used to work; it does not in {package} {version}.",
    "I came upon this while I was using {package} {version}.",
)
_STEPS = ("To see it:", "The shortest way to see it that I found:", "This shows it:")
_EXPECTED = (
    "I expected this to run without an error.",
    "It should pass.",
    "Expected: no error, as the documentation has it.",
)
_CAME = ("What came:", "Instead I get:", "Actual result:")
_MORE = ("The same seems to be behind these:", "Also seen:", "Other things that fail:")
