"""Tasks out of whole repositories, as rows in the schema of SWE-bench (arXiv 2310.06770).

Two schemas are in use: the classic one, whose images, test commands and log parsers stand in tables of
swebench 4, and that of swebench 5, which carries them in the row. Of further columns none changes the verdict
of either, and none is read.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

from trieline.common.text import shortened
from trieline.envs.datasets.records import said
from trieline.envs.errors import DataError
from trieline.envs.swe.repositories import eval_type_of
from trieline.envs.swe.verdict import EvalType

WORKDIR = "/testbed"
"""Where a task has its repository, in every image and sandbox."""
MOST_TEXT = 64 * 2**20
"""Characters of one text; the longest patches that were published have a hundredth of that."""
MOST_TESTS = 500_000
"""In one list; SWE-bench has rows with ten thousand."""
MOST_LITERAL = 4 * 2**20
"""Characters of a list that Python printed; to parse one takes some hundred times its size."""
MOST_COLUMNS = 1_000

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryTask:
    """A repository at a commit, what is wrong with it, and the tests that decide whether it was mended."""

    instance_id: str
    """Fit for the name of a folder, a container or an image: letters, digits and `_.+-`, at most 200."""
    repo: str
    """`owner/name`."""
    version: str = ""
    """Of the repository, as the tables of swebench 4 name it; empty: the row has none."""
    base_commit: str
    problem_statement: str
    hints_text: str = ""
    """What people said below the issue before it was fixed. Not shown to an agent."""
    patch: str
    """The gold patch."""
    test_patch: str
    fail_to_pass: tuple[str, ...]
    """At least one test."""
    pass_to_pass: tuple[str, ...]
    created_at: str = ""
    environment_setup_commit: str = ""
    """The commit whose requirements swebench 4 installs; empty: the base commit."""
    image: str | None = None
    """Of a container with the repository at `/testbed`. None in classic rows, as are the next three."""
    log_parser: str | None = None
    """The name of a function of `swebench.harness.log_parsers`."""
    eval_script: str | None = None
    """For bash: resets the test files, applies the test patch, runs the tests between two markers."""
    image_assets: str | None = None
    """JSON: addresses of binary files that go with a patch but can't stand in it (SWE-bench Multimodal)."""
    eval_type: EvalType = EvalType.PASS_AND_FAIL


def row_of(task: RepositoryTask) -> dict[str, Any]:
    """The task in the official columns, as swebench 5 takes it; what it does not have is left out."""
    row: dict[str, Any] = {}
    for field in fields(task):
        value = getattr(task, field.name)
        if value is not None:
            row[_COLUMNS.get(field.name, field.name)] = list(value) if isinstance(value, tuple) else value
    return row


def task_of(row: object) -> RepositoryTask:
    """The task in one row.

    Raises:
        DataError: names the column, what was expected and what came.
    """
    if not isinstance(row, dict):
        msg = f"expected a row with columns, got {said(row)}"
        raise DataError(msg)
    if len(row) > MOST_COLUMNS:
        msg = f"expected at most {MOST_COLUMNS:,} columns, got {len(row):,}"
        raise DataError(msg)
    if row.get("base_commit") is None and "image_name" in row:
        msg = "base_commit: expected text, got a row of SWE-smith, whose patch breaks the code, not mends it"
        raise DataError(msg)
    values = {name: read(row, name) for name, read in _READERS.items()}
    if values["eval_type"] is None:
        values["eval_type"] = eval_type_of(values["repo"])
    return RepositoryTask(**values)


_COLUMNS = {"fail_to_pass": "FAIL_TO_PASS", "pass_to_pass": "PASS_TO_PASS"}
_OTHER_COLUMNS = {
    "fail_to_pass": ("fail_to_pass",),  # SWE-bench Pro
    "pass_to_pass": ("pass_to_pass",),
    "image": ("docker_image",),  # SWE-rebench
}


def _value(row: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """The column that holds a field, and its value; None also for the NaN that pandas writes for nothing."""
    first = _COLUMNS.get(name, name)
    held = {column: row.get(column) for column in (first, *_OTHER_COLUMNS.get(name, ()))}
    held = {c: v for c, v in held.items() if v is not None and not (isinstance(v, float) and math.isnan(v))}
    if len(held) > 1:
        msg = f"{first}: expected one such column, got {' and '.join(held)}"
        raise DataError(msg)
    return next(iter(held.items()), (first, None))


def _text(row: Mapping[str, Any], name: str) -> str | None:
    """Text, or None; whole numbers and dates are written out."""
    column, value = _value(row, name)
    if value is None:
        return None
    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _checked(column, value)


def _checked(column: str, value: object) -> str:
    if not isinstance(value, str):
        msg = f"{column}: expected text, got {said(value)}"
        raise DataError(msg)
    if len(value) > MOST_TEXT:
        msg = f"{column}: expected at most {MOST_TEXT:,} characters, got {len(value):,}"
        raise DataError(msg)
    if surrogate := _SURROGATE.search(value):
        msg = f"{column}: expected Unicode text, got a lone surrogate at character {surrogate.start() + 1:,}"
        raise DataError(msg)
    return value


def _required(row: Mapping[str, Any], name: str) -> str:
    text = _text(row, name)
    return _checked(name, None) if text is None else text


def _or_empty(row: Mapping[str, Any], name: str) -> str:
    return _text(row, name) or ""


def _or_none(row: Mapping[str, Any], name: str) -> str | None:
    return _text(row, name) or None


def _fitting(row: Mapping[str, Any], name: str, *, required: bool = True) -> str | None:
    """A name that may stand in paths and commands."""
    text = _required(row, name) if required else _or_none(row, name)
    pattern, expected = _PATTERNS[name]
    if text is not None and (not pattern.fullmatch(text) or ".." in text.split("/")):
        msg = f"{name}: expected {expected}, got {said(text)}"
        raise DataError(msg)
    return text


def _fitting_or_none(row: Mapping[str, Any], name: str) -> str | None:
    return _fitting(row, name, required=False)


def _commit_or_empty(row: Mapping[str, Any], name: str) -> str:
    return _fitting(row, name, required=False) or ""


def _eval_type(row: Mapping[str, Any], name: str) -> EvalType | None:
    text = _or_none(row, name)
    if text not in {None, *EvalType}:
        msg = f"{name}: expected {' or '.join(EvalType)}, got {said(text)}"
        raise DataError(msg)
    return None if text is None else EvalType(text)


def _image_assets(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    text = json.dumps(value) if isinstance(value, dict) else _or_none(row, name)
    return None if text == "{}" else text


def _fail_to_pass(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    tests = _tests(row, name)
    if not tests:
        msg = "FAIL_TO_PASS: expected at least one test, got none: an empty patch would resolve such a task"
        raise DataError(msg)
    return tests


def _tests(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Ids of tests: a list, or one in text, in JSON or as Python prints it (SWE-bench Pro)."""
    column, value = _value(row, name)
    tests = _list_in(column, value) if isinstance(value, str) else value
    if not isinstance(tests, list):
        msg = f"{column}: expected a list of tests, got {said(tests)}"
        raise DataError(msg)
    if len(tests) > MOST_TESTS:
        msg = f"{column}: expected at most {MOST_TESTS:,} tests, got {len(tests):,}"
        raise DataError(msg)
    return tuple(_checked(f"{column}, test {n}", test) for n, test in enumerate(tests, start=1))


def _list_in(column: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem: Exception = error
    if text.lstrip().startswith("[") and len(text) <= MOST_LITERAL:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            problem = error
    msg = f"{column}: expected a list of tests, got {said(text)}: {shortened(problem, 100)}"
    raise DataError(msg) from problem


_PATTERNS = {
    "instance_id": (
        re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}"),
        "at most 200 letters, digits and _.+-, the first no sign",
    ),
    "repo": (re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*"), "owner/name"),
    "base_commit": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"), "the hash of a commit"),
    "environment_setup_commit": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"), "the hash of a commit"),
    "image": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,499}"), "the name of an image"),
    "log_parser": (re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}"), "the name of a function"),
}

_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "instance_id": _fitting,
    "repo": _fitting,
    "version": _or_empty,
    "base_commit": _fitting,
    "problem_statement": _required,
    "hints_text": _or_empty,
    "patch": _required,
    "test_patch": _required,
    "fail_to_pass": _fail_to_pass,
    "pass_to_pass": _tests,
    "created_at": _or_empty,
    "environment_setup_commit": _commit_or_empty,
    "image": _fitting_or_none,
    "log_parser": _fitting_or_none,
    "eval_script": _or_none,
    "image_assets": _image_assets,
    "eval_type": _eval_type,
}
COLUMNS = frozenset(
    {_COLUMNS.get(name, name) for name in _READERS} | {c for other in _OTHER_COLUMNS.values() for c in other}
)
"""All columns that are read."""
