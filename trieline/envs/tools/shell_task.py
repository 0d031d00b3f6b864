"""One task for a shell: what is asked, the files that are there, and the script that decides."""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from trieline.common.text import shortened
from trieline.envs.datasets.dataset_env import MOST_QUESTION
from trieline.envs.datasets.records import said
from trieline.envs.datasets.rows import Row
from trieline.envs.datasets.task_set import Difficulty
from trieline.envs.errors import DataError
from trieline.envs.swe.replies import problem_of_command

MOST_FILES = 200
MOST_FILE_BYTES = 1_000_000
"""Of all files of a task together."""
MOST_PATH = 200
"""Bytes."""
MOST_FOLDERS = 20
"""Above a file."""
MOST_CHECK = 60_000
"""Bytes: a script is handed to its interpreter as one word, so that nothing can rewrite it meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellTask:
    """`files`: path and text of each, by path."""

    task: str
    files: tuple[tuple[str, str], ...]
    check: str
    """Python if its first line is a `#!` that names python, else for bash."""
    solution: str | None
    """Lines of shell after which the check passes."""
    named: str | None
    difficulty: Difficulty | None

    @property
    def key(self) -> str:
        return json.dumps([self.task, self.files])

    @property
    def identity(self) -> str:
        return self.check

    @property
    def check_argv(self) -> list[str]:
        """The command that runs the check. Nothing in the folder where it runs is read as its set-up."""
        if "python" in self.check.partition("\n")[0] and self.check.startswith("#!"):
            return ["python3", "-I", "-S", "-B", "-c", self.check]
        return ["bash", "--noprofile", "--norc", "-c", self.check]

    def archive(self) -> IO[bytes]:
        """The files as a tar."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, text in self.files:
                data = text.encode()
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        out.seek(0)
        return out


def task_of(row: Row) -> ShellTask:
    """A row read. Raises DataError."""
    task, check = row.text("task"), row.text("check")
    if len(task) > MOST_QUESTION:
        msg = f"task: expected at most {MOST_QUESTION:,} characters, got {len(task):,}"
        raise DataError(msg)
    if "\0" in check or len(_encoded(check, "check")) > MOST_CHECK:
        msg = f"check: expected at most {MOST_CHECK:,} bytes without NUL, got {said(check)}"
        raise DataError(msg)
    solution = row.optional_text("solution")
    if solution is not None and (problem := problem_of_command(solution)):
        msg = f"solution: {problem}"
        raise DataError(msg)
    return ShellTask(
        task=task,
        files=_files(row),
        check=check,
        solution=solution,
        named=row.optional_text("id"),
        difficulty=row.difficulty(),
    )


def _files(row: Row) -> tuple[tuple[str, str], ...]:
    """An object of paths and texts, or one in JSON. A path with null is of another row of its table."""
    value = row.value("files")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            msg = f"files: expected an object of paths and texts, got {said(value)}"
            raise DataError(msg) from error
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        msg = f"files: expected an object of paths and texts, got {said(value)}"
        raise DataError(msg)
    found = {path: text for path, text in value.items() if text is not None}
    if len(found) > MOST_FILES:
        msg = f"files: expected at most {MOST_FILES}, got {len(found)}"
        raise DataError(msg)
    total = 0
    for path, text in found.items():
        _check_path(path, found)
        if not isinstance(text, str):
            msg = f"files: expected a text in {path}, got {said(text)}"
            raise DataError(msg)
        total += len(_encoded(text, f"files: {path}"))
    if total > MOST_FILE_BYTES:
        msg = f"files: expected at most {MOST_FILE_BYTES:,} bytes together, got {total:,}"
        raise DataError(msg)
    return tuple(sorted(found.items()))


def _check_path(path: str, files: Mapping[str, object]) -> None:
    """Raises DataError for one that is not plain, relative and inside, or below another file."""
    pure = PurePosixPath(path)
    plain = path and str(pure) == path and not pure.is_absolute() and ".." not in pure.parts and path != "."
    if not plain or "\0" in path or len(_encoded(path, "files")) > MOST_PATH:
        msg = f"files: expected relative paths of 1 to {MOST_PATH} bytes without '..', got {path[:300]!r}"
        raise DataError(msg)
    if len(pure.parts) > MOST_FOLDERS:
        msg = f"files: expected at most {MOST_FOLDERS} folders, got {shortened(path, 100)!r}"
        raise DataError(msg)
    if below := [str(parent) for parent in pure.parents if str(parent) in files]:
        msg = f"files: expected a folder above {path!r}, got the file {below[0]!r}"
        raise DataError(msg)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        msg = f"{name}: expected Unicode text, got a lone surrogate at character {error.start + 1:,}"
        raise DataError(msg) from error
