"""Statements tell what can be seen, and never a line of the patch."""

import random

import pytest

from trieline.envs.swe.task_making.changelogs import is_changelog, notes_of
from trieline.envs.swe.task_making.statements import (
    Failure,
    changed_lines,
    failures_told,
    seen_failing,
    tells,
    to_be_done,
)

LOG = """\
collected 3 items
=================================== FAILURES ===================================
_______________________________ test_add[1-2] __________________________________

    def test_add(a, b):
>       assert add(1, 2) == 3
E       assert -1 == 3
E        +  where -1 = <function add at 0x7f33aa0012ab>(1, 2)
E       Use -v to get more diff

tests/test_calc.py:5: AssertionError
_________________________ ERROR collecting tests/test_x.py _____________________
E   ImportError: cannot import name 'x'
=========================== short test summary info ============================
E       not of a test
FAILED tests/test_calc.py::test_add[1-2] - assert -1 == 3
"""
PATCH = """\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -1,4 +1,4 @@
 def add(a, b):
-    return a - b
+    return a + b
-
--- x
"""


def test_failures_are_their_errors() -> None:
    assert failures_told(LOG) == [
        Failure(
            title="test_add[1-2]", error=("assert -1 == 3", " +  where -1 = <function add at 0x...>(1, 2)")
        ),
        Failure(title="tests/test_x.py", error=("ImportError: cannot import name 'x'",)),
    ]


def test_changed_lines() -> None:
    assert changed_lines(PATCH) == {"return a - b", "return a + b", "-- x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("it should say `return a + b`", True),
        ("    return a - b\n", True),
        ("it adds", False),
        ("a -- x b", False),  # a short line counts as a whole only
        ("so:\n   -- x\n", True),
    ],
)
def test_a_text_tells_a_changed_line(text: str, told: bool) -> None:
    assert tells(text, changed_lines(PATCH)) is told


def test_a_statement_of_what_fails_never_tells() -> None:
    changed = changed_lines(PATCH)
    snippet = "def test_add():\n    assert add(1, 2) == 3"
    leaky = [
        Failure(title="test_add", error=("assert -1 == 3", "  return a - b")),
        Failure(title="TestX.test_sub_two[a b]", error=("return a + b",)),
        Failure(title="test_none", error=()),
    ]
    statements = set()
    for seed in range(50):
        rng = random.Random(seed)
        text = seen_failing("calc", "1.0", leaky, snippet, changed, rng)
        assert not tells(text, changed)
        assert "calc" in text
        assert "assert -1 == 3" in text
        assert snippet in text
        assert "sub two" in text
        assert not tells(seen_failing("calc", "1.0", leaky, "    return a + b", changed, rng), changed)
        statements.add(text)
    assert len(statements) > 5


def test_a_statement_of_a_changelog_never_tells() -> None:
    changed = changed_lines(PATCH)
    notes = ["- Adding adds again (#12)", "  by return a + b", ""]
    snippet = "def test_add():\n    assert add(1, 2) == 3"
    text = to_be_done("calc", "1.0", notes, failures_told(LOG), snippet, changed)
    assert text is not None
    assert "Adding adds again" in text
    assert snippet in text
    assert "- add: `assert -1 == 3`" in text
    assert not tells(text, changed)
    leaky = to_be_done("calc", "1.0", notes, [], "    return a + b", changed)
    assert leaky is not None
    assert not tells(leaky, changed)
    assert to_be_done("calc", "1.0", ["return a + b", "-"], [], None, changed) is None


@pytest.mark.parametrize(
    "text",
    [
        "Changes\n=======\n\n1.2.1 (2024)\n------------\n\n- Mended it.\n\n1.2.0\n-----\n\n- Old.\n",
        "# Changelog\n\n## [1.2.1] - 2024\n\n- Mended it.\n\n## [1.2.0]\n\n- Old.\n",
        "Version 1.2.1\n\n- Mended it.\n\nVersion 1.2.0\n\n- Old.\n",
        "v1.2.1\n======\n- Mended it.\nv1.2.0\n======\n- Old.\n",
        "Release 1.2.10\n-----\n\n- New.\n\nRelease 1.2.1 (x)\n-----------\n\n- Mended it.\n",
    ],
)
def test_a_changelog_in_every_form(text: str) -> None:
    assert (
        "\n".join(notes_of({"README.md": "# 3.0\n", "CHANGES.rst": text}, "1.2.1")).strip() == "- Mended it."
    )


def test_which_files_are_changelogs_and_what_they_lack() -> None:
    assert all(map(is_changelog, ("CHANGES.rst", "docs/changelog.md", "HISTORY", "README")))
    assert not any(map(is_changelog, ("changes.py", "docs/index.rst")))
    assert notes_of({"CHANGES": "1.0\n---\n- x\n"}, "2.0") == []
    assert notes_of({}, "2.0") == []
