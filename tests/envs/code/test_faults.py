"""Faults of our own functions: one line each, the same ones for ever, and none that never ends."""

import ast

import pytest

from trieline.envs.code.faults import wrong_versions
from trieline.envs.code.repair import PROGRAMS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return max(a, b)", {"return min(a, b)", "return max(b, a)"}),
        ("return s.upper()", {"return s.lower()", "return s.title()"}),
        ("return len(s)", {"return sum(s)", "return s"}),
        ("return x + 1", {"return x - 1", "return 1 + x", "return x + 2", "return x + 0"}),
        ("return x in sorted(xs)", {"return x not in sorted(xs)", "return sorted(xs) in x",
                                    "return x in list(xs)", "return x in xs"}),
        ("return s", set()),
    ],
)  # fmt: skip
def test_versions_of_a_line(source: str, expected: set[str]) -> None:
    head = "def f(a, b, s, x, xs):\n    "
    assert set(wrong_versions(head + source)) == {head + version for version in expected}


def test_what_changes_several_lines_is_none() -> None:
    source = "def f(a):\n    if a:\n        a = 1\n        a += 1\n    return a"
    for version in wrong_versions(source):
        assert len(version.split("\n")) == 5


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_version_can_run_for_ever(name: str) -> None:
    program = PROGRAMS[name]
    source = program.source.format_map({key: choices[0] for key, choices in program.constants.items()})
    for version in wrong_versions(source):
        assert not any(isinstance(node, ast.While) for node in ast.walk(ast.parse(version)))
