"""What a changelog says of one version."""

import re
from collections.abc import Iterable, Mapping

NAMES = ("changelog", "changes", "history", "news", "release_notes", "releases", "readme", "versions")
SUFFIXES = ("", ".md", ".rst", ".txt")
MOST_LINES = 80

_UNDERLINE = re.compile(r"([=\-~^#*+\"'])\1{2,}\s*")
_VERSION = re.compile(r"(?<![\w.])v?(\d+(?:\.\d+)+)(?![\w.]*\d)")


def is_changelog(path: str) -> bool:
    """Whether a file's path is that of a changelog, or of a README that can hold one."""
    name = path.rsplit("/", 1)[-1].lower()
    return any(name == known + suffix for known in NAMES for suffix in SUFFIXES)


def notes_of(texts: Mapping[str, str], version: str) -> list[str]:
    """The lines below the heading of a version, in the first text that has one, in the order of `NAMES`."""
    for path in sorted(texts, key=_rank):
        if notes := _section(texts[path].splitlines(), version):
            return notes
    return []


def _rank(path: str) -> tuple[int, str]:
    name = path.rsplit("/", 1)[-1].lower().partition(".")[0]
    return (NAMES.index(name) if name in NAMES else len(NAMES), path)


def _section(lines: list[str], version: str) -> list[str]:
    headings = list(_headings(lines))
    for place, (line, found) in enumerate(headings):
        if found == version:
            end = headings[place + 1][0] if place + 1 < len(headings) else len(lines)
            kept = [text for text in lines[line + 1 : end] if not _UNDERLINE.fullmatch(text)]
            return "\n".join(kept[:MOST_LINES]).strip("\n").split("\n") if any(kept) else []
    return []


def _headings(lines: list[str]) -> Iterable[tuple[int, str]]:
    """Lines that begin what is said of a version: `## 1.2`, `1.2` underlined, `Version 1.2 (date)`."""
    for number, line in enumerate(lines):
        match = _VERSION.search(line)
        if match is None or line.startswith((" ", "\t")):
            continue
        following = lines[number + 1] if number + 1 < len(lines) else ""
        before = line[: match.start()].strip("#*[ =").lower()
        marked = line.startswith("#") or bool(_UNDERLINE.fullmatch(following))
        plain = before in ("", "version", "release") and len(line) <= 60 and not line.startswith(("-", "*"))
        if marked or plain:
            yield number, match[1]
