"""Rows of shell tasks: what is read, and what is refused with a sentence."""

import json
import tarfile
from typing import Any

import pytest

from trieline.envs.datasets.rows import Row
from trieline.envs.errors import DataError
from trieline.envs.tools.shell_env import Shell
from trieline.envs.tools.shell_task import MOST_CHECK, MOST_FILE_BYTES, MOST_FILES, ShellTask, task_of


def read(**values: Any) -> ShellTask:
    return task_of(Row(values={"task": "Do it.", "check": "true", **values}, columns=Shell.columns))


def test_files_come_in_objects_or_in_json() -> None:
    files = {"b/c.txt": "ü\n", "a.txt": "", "of another row": None}
    expected = (("a.txt", ""), ("b/c.txt", "ü\n"))
    assert read(files=files).files == read(files=json.dumps(files)).files == expected
    assert read().files == ()
    with tarfile.open(fileobj=read(files=files).archive()) as tar:
        assert [(member.name, member.size) for member in tar] == [("a.txt", 0), ("b/c.txt", 3)]


@pytest.mark.parametrize(
    "path", ["", ".", "/a", "a/", "../a", "a/../b", "./a", "a//b", "a\0", "x" * 201, "a/" * 30 + "b"]
)
def test_a_path_is_plain_and_inside(path: str) -> None:
    with pytest.raises(DataError, match="files: expected"):
        read(files={path: "text"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": {"a": "1", "a/b": "2"}}, "expected a folder above 'a/b', got the file 'a'"),
        ({"files": ["a"]}, "expected an object of paths and texts, got a list"),
        ({"files": "{"}, "expected an object of paths and texts"),
        ({"files": {"a": 1}}, "expected a text in a, got the number 1"),
        ({"files": {"a": "\ud800"}}, "expected Unicode text"),
        ({"files": {"a": "x" * (MOST_FILE_BYTES + 1)}}, "bytes together"),
        ({"files": {str(n): "" for n in range(MOST_FILES + 1)}}, f"expected at most {MOST_FILES}"),
        ({"check": "x" * (MOST_CHECK + 1)}, "check: expected at most"),
        ({"check": None}, "check: expected a text"),
        ({"task": ""}, "task: expected a text"),
        ({"solution": "a\0"}, "solution: Expected Unicode text"),
    ],
)
def test_a_row_that_is_none_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(**values)


def test_the_first_line_says_what_a_check_is_written_in() -> None:
    assert read(check="#!/usr/bin/env python3\nprint()").check_argv[0] == "python3"
    assert read(check="#!/bin/bash\npython3 -V").check_argv[0] == "bash"
    assert read(check="python3 -V").check_argv[0] == "bash"


def test_the_same_words_about_other_files_are_another_task() -> None:
    first, second = read(files={"a": "1"}), read(files={"a": "2"})
    assert first.key != second.key
