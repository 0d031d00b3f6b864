"""One exact text of one file is replaced by another."""

from typing import Protocol

from trieline.envs.swe.replies import Edit

UNCHANGED = "Nothing was changed."
MOST_PLACES = 10
"""Lines that are named where a text is found several times."""


class Files(Protocol):
    """A workspace."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None: ...


def edit_file(files: Files, edit: Edit) -> str:
    """Make the edit if it can mean one thing only. Returns what came of it, for the agent to read."""
    try:
        return _edit(files, edit)
    except OSError as error:
        return f"{edit.path}: {error.strerror or error}. {UNCHANGED}"
    except UnicodeDecodeError:
        return f"{edit.path}: expected a text in UTF-8, got something else. {UNCHANGED}"


def _edit(files: Files, edit: Edit) -> str:
    if not edit.search:
        return _make(files, edit)
    text = files.read(edit.path).decode("utf-8")
    found = _places(text, edit.search)
    if len(found) != 1:
        what = f"{len(found)} times, in the lines {_listed(found)}" if found else "nowhere"
        return f"{edit.path}: expected the text exactly once, found it {what}. {UNCHANGED}"
    start = text.index(edit.search)
    changed = text[:start] + edit.replace + text[start + len(edit.search) :]
    files.write(edit.path, changed.encode("utf-8"))
    return f"{edit.path}: the text in line {found[0]} was replaced."


def _make(files: Files, edit: Edit) -> str:
    try:
        files.read(edit.path)
    except FileNotFoundError:
        files.write(edit.path, f"{edit.replace}\n".encode())
        return f"{edit.path}: it was made."
    return f"{edit.path}: expected a text to look for, as the file is there, got none. {UNCHANGED}"


def _places(text: str, search: str) -> list[int]:
    """The lines in which it begins, overlapping ones included, as many as are named and one more."""
    lines, start, line, last = list[int](), text.find(search), 1, 0
    while start >= 0 and len(lines) <= MOST_PLACES:
        line += text.count("\n", last, start)
        lines.append(line)
        last, start = start, text.find(search, start + 1)
    return lines


def _listed(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:MOST_PLACES]))
    return f"{shown} and more" if len(lines) > MOST_PLACES else shown
