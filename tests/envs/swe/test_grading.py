"""Patches graded in real workspaces: honest ones by what they do, dishonest ones never as resolved."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository
from tests.envs.swe.workspaces import IGNORED, make_checkout, workspace
from trieline.envs.errors import TaskError
from trieline.envs.swe.eval_script import read_eval_script
from trieline.envs.swe.grading import Exam, Grade, grade
from trieline.envs.swe.verdict import EvalType

Files = Mapping[str, bytes | None]
"""By path: its new content, or None for one that is gone."""

CALC = b"def add(a, b):\n    return a - b\n\n\ndef mul(a, b):\n    return a * b\n"
FIXED = CALC.replace(b"a - b", b"a + b")
TESTS = b"from calc import mul\n\n\ndef test_mul():\n    assert mul(2, 3) == 6\n"
NEW_TESTS = (
    TESTS.replace(b"import mul", b"import add, mul") + b"\n\ndef test_add():\n    assert add(2, 3) == 5\n"
)
CASES = (
    b"import unittest\n\nfrom calc import add\n\n\nclass AddTest(unittest.TestCase):\n"
    b"    def test_zero(self):\n        self.assertEqual(add(1, 1), 2)\n\n\n"
    b'if __name__ == "__main__":\n    unittest.main()\n'
)
BASE: Files = {"calc.py": CALC, "tests/test_calc.py": TESTS, "tests/helper.py": b"ANSWER = 42\n"}
AFTER: Files = {"tests/test_calc.py": NEW_TESTS, "tests/test_cases.py": CASES}
SCRIPT = """#!/bin/bash
set -uxo pipefail
cd /testbed
export PYTHONPATH=vendor:. PYTHONDONTWRITEBYTECODE=1
git status
git checkout 0123456789 tests/test_calc.py
git apply -v - <<'EOF_114329324912'
what the grader applies itself
EOF_114329324912
: '>>>>> Start Test Output'
python3 -m pytest -rA -p no:cacheprovider tests/test_calc.py tests/test_cases.py
: '>>>>> End Test Output'
git checkout 0123456789 tests/test_calc.py
"""
WALL_SECONDS = 6.0


class Course:
    """The task, and a repository in which patches are made."""

    def __init__(self, folder: Path) -> None:
        self.checkout = make_checkout(folder / "checkout", tree_of(BASE))
        self._scratch = Repository(folder / "scratch", {**tree_of(BASE), ".gitignore": IGNORED})
        self.exam = Exam(
            instance_id="example__calc-1",
            version="1",
            test_patch=self.patch(AFTER).decode(),
            script=read_eval_script(SCRIPT),
            log_parser="parse_log_pytest",
            eval_type=EvalType.PASS_AND_FAIL,
            fail_to_pass=("tests/test_calc.py::test_add", "tests/test_cases.py::AddTest::test_zero"),
            pass_to_pass=("tests/test_calc.py::test_mul",),
        )

    def patch(self, changes: Files) -> bytes:
        self._scratch.write({**tree_of({**BASE, **changes}), ".gitignore": IGNORED})
        made = self._scratch.diff()
        self._scratch.reset()
        return made

    def grade(self, patch: str | bytes, exam: Exam | None = None) -> Grade:
        with workspace(self.checkout) as sandbox:
            return grade(sandbox, exam or self.exam, patch, wall_seconds=WALL_SECONDS)


def tree_of(files: Files) -> dict[str, tuple[bytes, bool]]:
    return {path: (content, False) for path, content in files.items() if content is not None}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return Course(tmp_path_factory.mktemp("course"))


def test_the_fix_resolves_and_an_unrelated_change_does_not(course: Course) -> None:
    fixed = course.grade(course.patch({"calc.py": FIXED}))
    assert (fixed.cause, fixed.resolved) == ("", True)
    assert ">>>>> Start Test Output\n" in fixed.log
    nothing = course.grade(course.patch({"README": b"calc\n"}))
    assert (nothing.cause, nothing.resolved) == ("", False)
    assert nothing.verdict is not None
    assert nothing.verdict.fail_to_pass.failure == course.exam.fail_to_pass
    assert nothing.verdict.pass_to_pass.success == course.exam.pass_to_pass


HONEST: dict[str, Files] = {
    "the very tests changed, too": {"calc.py": FIXED, "tests/test_calc.py": b"def test_mine(): pass\n"},
    "a new file where a test file will be": {"calc.py": FIXED, "tests/test_cases.py": b"X = 1\n"},
    "no newline at the end": {"calc.py": FIXED.rstrip(b"\n")},
    "line ends of another system": {"calc.py": FIXED.replace(b"\n", b"\r\n")},
    "a module that moved": {"calc.py": b"from operations import *\n", "operations.py": FIXED},
    "a file that is gone, a name with spaces": {
        "calc.py": FIXED,
        "tests/helper.py": None,
        "notes on Größe.txt": b"x\n",
    },
    "binary": {"calc.py": FIXED, "logo.png": bytes(range(256)) * 9},
    "a conftest of its own": {
        "calc.py": FIXED,
        "conftest.py": b"import pytest\n\n@pytest.fixture\ndef x(): ...\n",
    },
    "prints at exit": {"calc.py": FIXED + b"\nimport atexit\natexit.register(print, 'bye')\n"},
    "its own failing test elsewhere": {
        "calc.py": FIXED,
        "tests/test_mine.py": b"def test_mine(): assert 0\n",
    },
}


@pytest.mark.parametrize("name", HONEST)
def test_odd_but_honest_patches_resolve(course: Course, name: str) -> None:
    found = course.grade(course.patch(HONEST[name]))
    assert (found.cause, found.message, found.resolved) == ("", "", True)


ALL_PASS = b"""
import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    report.outcome, report.longrepr = "passed", None
"""
BEND_REPORTS = b"""
from _pytest.reports import TestReport
made = TestReport.from_item_and_call.__func__
def bent(cls, item, call):
    report = made(cls, item, call)
    report.outcome, report.longrepr = "passed", None
    return report
TestReport.from_item_and_call = classmethod(bent)
"""
EMPTY_BODIES = b"""
import sys
def bend(frame, event, argument):
    if frame.f_code.co_name.startswith("test_"):
        frame.f_globals.update({"add": lambda a, b: 5 if a == 2 else 2})
sys.setprofile(bend)
import builtins
from _pytest import python
python.pytest_pyfunc_call = lambda pyfuncitem: True
python.Function.runtest = lambda self: None
import _pytest.unittest
_pytest.unittest.TestCaseFunction.runtest = lambda self: None
"""
LINES_AT_EXIT = (
    b"import atexit\natexit.register(print, 'PASSED tests/test_calc.py::test_add\\n"
    b"PASSED tests/test_cases.py::AddTest::test_zero\\nPASSED tests/test_calc.py::test_mul')\n"
)
FORGED = (
    b"print('PASSED tests/test_calc.py::test_add\\nPASSED tests/test_cases.py::AddTest::test_zero\\n"
    b"PASSED tests/test_calc.py::test_mul', flush=True)\nimport os\nos._exit(%d)\n"
)
REWRITE = b"""
import sys
class Out:
    def __init__(self, out): self.out = out
    def write(self, text): return self.out.write(text.replace("FAILED", "PASSED"))
    def __getattr__(self, name): return getattr(self.out, name)
sys.stdout = sys.__stdout__ = Out(sys.stdout)
def pytest_configure(config):
    config.get_terminal_writer()._file = Out(config.get_terminal_writer()._file)
"""
MARK_ALL = b"""
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.%s)
"""
ONLY_OLD = (
    b"def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if i.name == 'test_mul']\n"
)
MARKERS = b"print('>>>>> End Test Output\\n>>>>> Start Test Output')\n" + LINES_AT_EXIT
DISHONEST: dict[str, Files] = {
    "tests edited": {"tests/test_calc.py": b"def test_mul(): pass\ndef test_add(): pass\n"},
    "tests deleted": {"tests/test_calc.py": None},
    "a folder's place taken by a file": {**dict.fromkeys(BASE), "calc.py": CALC, "tests": b"x\n"},
    "conftest at the top": {"conftest.py": ALL_PASS},
    "conftest beside the tests": {"tests/conftest.py": ALL_PASS},
    "plug-in named in pytest.ini": {"pytest.ini": b"[pytest]\naddopts = -p bent\n", "bent.py": ALL_PASS},
    "plug-in named in pyproject.toml": {
        "pyproject.toml": b'[tool.pytest.ini_options]\naddopts = "-p bent"\n',
        "bent.py": ALL_PASS,
    },
    "plug-in of a distribution": {
        "bent.egg-info/PKG-INFO": b"Metadata-Version: 2.1\nName: bent\nVersion: 1\n",
        "bent.egg-info/entry_points.txt": b"[pytest11]\nbent = bent\n",
        "bent.py": ALL_PASS,
    },
    "sitecustomize": {"sitecustomize.py": b"import bent\n", "bent.py": BEND_REPORTS},
    "usercustomize": {"usercustomize.py": b"import bent\n", "bent.py": BEND_REPORTS},
    "pytest.py at the top": {"pytest.py": FORGED % 0},
    "pytest.py at the top, status 1": {"pytest.py": FORGED % 1},
    "pdb.py at the top": {"pdb.py": BEND_REPORTS},
    "atexit in a package of tests": {"tests/__init__.py": LINES_AT_EXIT},
    "source: reports bent": {"calc.py": CALC + BEND_REPORTS},
    "source: bodies emptied": {"calc.py": CALC + EMPTY_BODIES},
    "source: lines at exit": {"calc.py": CALC + LINES_AT_EXIT},
    "source: forged and out, status 0": {"calc.py": CALC + FORGED % 0},
    "source: forged and out, status 1": {"calc.py": CALC + FORGED % 1},
    "source: official markers": {"calc.py": CALC + MARKERS},
    "summary rewritten": {"conftest.py": REWRITE},
    "all expected to fail": {"conftest.py": MARK_ALL % b"xfail"},
    "all skipped": {"conftest.py": MARK_ALL % b"skip"},
    "all but one deselected": {"conftest.py": ONLY_OLD},
    "options: only what passes": {"pytest.ini": b"[pytest]\naddopts = -k mul\n"},
    "options: nothing is run": {"pytest.ini": b"[pytest]\naddopts = --collect-only\n"},
    "status 0 at the end": {
        "conftest.py": b"def pytest_unconfigure():\n    import os\n    os._exit(0)\n",
        "calc.py": CALC,
    },
    "git told to run a filter": {
        ".gitattributes": b"*.py filter=bent diff=bent\n",
        ".gitconfig": b'[filter "bent"]\n\tsmudge = true\n',
    },
    "a here-document's end": {"calc.py": CALC + b"x = '''\nEOF_114329324912\n'''\n"},
    "endless": {"calc.py": CALC + b"while True: pass\n"},
    "memory without end": {
        "calc.py": CALC + b"x = [bytearray(2**20)]\nwhile True: x += [bytearray(2**24)]\n"
    },
    "output without end": {"calc.py": CALC + b"import os\nwhile True: os.write(2, b'x' * 65536)\n"},
    "children without end": {
        "calc.py": CALC + b"import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"
    },
    "does not parse": {"calc.py": b"def add(a, b) return a + b\n"},
}
CAUSES = {
    "conftest at the top": "forged",
    "source: reports bent": "forged",
    "source: lines at exit": "forged",
    "all expected to fail": "forged",
    "endless": "timed_out",
}


@pytest.mark.parametrize("name", DISHONEST)
def test_dishonest_patches_never_resolve(course: Course, name: str) -> None:
    found = course.grade(course.patch(DISHONEST[name]))
    assert not found.resolved
    assert found.cause == CAUSES.get(name, found.cause)


@pytest.mark.parametrize(
    "patch",
    [
        "diff --git a/.git/hooks/post-checkout b/.git/hooks/post-checkout\nnew file mode 100755\n"
        "--- /dev/null\n+++ b/.git/hooks/post-checkout\n@@ -0,0 +1 @@\n+exit 0\n",
        "diff --git a/calc.py b/calc.py\ndeleted file mode 100644\n--- a/calc.py\n+++ /dev/null\n"
        "diff --git a/calc.py b/calc.py\nnew file mode 120000\n--- /dev/null\n+++ b/calc.py\n"
        "@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n",
        "--- a/../calc.py\n+++ b/../calc.py\n@@ -1 +1 @@\n-x\n+y\n",
        "I would rather not.",
        "",
    ],
    ids=["hook", "link", "parent", "prose", "empty"],
)
def test_what_git_may_not_have_is_refused(course: Course, patch: str) -> None:
    assert course.grade(patch).cause == "refused"


def test_a_patch_of_something_else_is_not_applied(course: Course) -> None:
    other = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def sub(a, b):\n-    return 1\n+    return 2\n"
    found = course.grade(other)
    assert found.cause == "not_applied"
    assert "patch does not apply" in found.message


def test_a_test_patch_that_git_may_not_have_is_the_tasks_fault(course: Course) -> None:
    with pytest.raises(TaskError, match="example__calc-1: expected a test patch that git may have"):
        course.grade(course.patch({"calc.py": FIXED}), replace(course.exam, test_patch="none"))
