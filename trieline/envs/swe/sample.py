"""Four small tasks, to try an environment of repositories without any data: one package, a mistake in each.

Their rows have all columns that those of swebench 5 have but an image: their checkouts are made when they are
needed, with a commit before the base and the fix after it, as a clone would have them. For bubblewrap.
"""

import difflib
import os
import subprocess
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import bubblewrap, temporary
from trieline.envs.sandbox.exit_cleanup import close_at_exit
from trieline.envs.swe.git import NO_CONFIGURATION
from trieline.envs.swe.repository_task import WORKDIR, RepositoryTask

REPO = "larder/larder"
GIT_SECONDS = 60.0

_UNITS = '''\
"""Measures of the kitchen."""

MILLILITRES = {"ml": 1, "tsp": 5, "tbsp": 15, "cup": 240, "l": 1000}


def convert(amount, unit, to):
    """An amount of one unit in another."""
    return amount * MILLILITRES[unit] / MILLILITRES[to]
'''
_RECIPE = '''\
"""Recipes: amounts of ingredients, for a number of people."""


def scaled(recipe, people):
    """A recipe for another number of people; the one given stays as it is."""
    factor = people / recipe["people"]
    amounts = {name: amount * factor for name, amount in recipe["amounts"].items()}
    return {**recipe, "people": people, "amounts": amounts}


def total(recipes):
    """All amounts of several recipes together."""
    amounts = {}
    for recipe in recipes:
        for name, amount in recipe["amounts"].items():
            amounts[name] = amounts.get(name, 0) + amount
    return amounts
'''
_LIST = '''\
"""Shopping lists."""


def missing(needed, larder):
    """What of the needed amounts is not in the larder, by name."""
    lacks = {name: amount - larder.get(name, 0) for name, amount in needed.items()}
    return {name: lacks[name] for name in sorted(lacks) if lacks[name] > 0}


def lines(amounts):
    """One line for each thing."""
    return [f"{amount:g} {name}" for name, amount in amounts.items()]
'''
_FILES: Mapping[str, str] = {
    "larder/__init__.py": '"""What to cook, and what to buy for it."""\n',
    "larder/units.py": _UNITS,
    "larder/recipe.py": _RECIPE,
    "larder/shopping.py": _LIST,
    "README.md": "# larder\n\nTests: `python3 -m unittest discover -s tests -t .`\n",
    ".gitignore": "__pycache__/\n",
    "tests/__init__.py": "",
}
_TESTS = """\
import unittest

{imports}


class {case}(unittest.TestCase):
{methods}"""
_RUN = f"""\
#!/bin/bash
set -uxo pipefail
cd {WORKDIR}
export PYTHONDONTWRITEBYTECODE=1
: '>>>>> Start Test Output'
python3 - <<'END_OF_RUNNER'
import sys, unittest
sys.path.insert(0, ".")
class Lines(unittest.TestResult):
    def say(self, word, test):
        module, case, name = test.id().rsplit(".", 2)
        print(word, "::".join([module.replace(".", "/") + ".py", case, name]), flush=True)
    def addSuccess(self, test):
        self.say("PASSED", test)
    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.say("FAILED", test)
    def addError(self, test, error):
        super().addError(test, error)
        self.say("ERROR", test)
lines = Lines()
unittest.defaultTestLoader.discover("tests", top_level_dir=".").run(lines)
sys.exit(not lines.wasSuccessful())
END_OF_RUNNER
: '>>>>> End Test Output'
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mistake:
    """A task: what is wrong in the package, and the tests that tell."""

    number: int
    statement: str
    right: tuple[tuple[str, str, str], ...]
    """(file, what it says, what it should say)."""
    module: str
    """That the tests are called after."""
    imports: str
    old_tests: str
    """Methods of a test case, of which all pass before and after."""
    new_tests: str
    """And those that fail before."""

    @property
    def instance_id(self) -> str:
        return f"larder__larder-{self.number}"

    @property
    def case(self) -> str:
        return f"{self.module.capitalize()}Test"

    @property
    def test_file(self) -> str:
        return f"tests/test_{self.module}.py"

    def source(self, *, mended: bool) -> dict[str, str]:
        """The package, without the new tests."""
        files = {**_FILES, self.test_file: self._tests(self.old_tests)}
        for file, wrong, right in self.right if not mended else ():
            assert right in files[file]
            files[file] = files[file].replace(right, wrong)
        return files

    def task(self) -> RepositoryTask:
        """Its row."""
        before, after = self.source(mended=False), self.source(mended=True)
        tests = self._tests(self.old_tests + "\n" + self.new_tests)
        return RepositoryTask(
            instance_id=self.instance_id,
            repo=REPO,
            base_commit="main",
            problem_statement=self.statement,
            patch=_diff(before, after),
            test_patch=_diff(before, {**before, self.test_file: tests}),
            fail_to_pass=self._ids(self.new_tests),
            pass_to_pass=self._ids(self.old_tests),
            log_parser="parse_log_pytest",
            eval_script=_RUN,
        )

    def _tests(self, methods: str) -> str:
        indented = textwrap.indent(methods, "    ")
        return _TESTS.format(imports=self.imports, case=self.case, methods=indented)

    def _ids(self, methods: str) -> tuple[str, ...]:
        names = [line.split()[1].partition("(")[0] for line in methods.split("\n") if "def test" in line]
        return tuple(f"{self.test_file}::{self.case}::{name}" for name in names)


def _diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """As git writes it, of files that are in both."""
    parts = []
    for name in before:
        if before[name] != after[name]:
            old, new = (files[name].splitlines(keepends=True) for files in (before, after))
            lines = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
            parts += [f"diff --git a/{name} b/{name}\n", *lines]
    return "".join(parts)


_MISTAKES = (
    _Mistake(
        number=1,
        statement="""\
A tablespoon is three teaspoons

`convert(1, 'tbsp', 'tsp')` gives 2.4, it should be 3.
""",
        right=(("larder/units.py", '"tbsp": 12', '"tbsp": 15'),),
        module="units",
        imports="from larder.units import convert",
        old_tests="""\
def test_litres(self):
    self.assertEqual(convert(2, "l", "ml"), 2000)
""",
        new_tests="""\
def test_spoons(self):
    self.assertEqual(convert(1, "tbsp", "tsp"), 3)
""",
    ),
    _Mistake(
        number=2,
        statement="""\
Scaling a recipe changes the recipe itself

`scaled` should give a new recipe. After `scaled(soup, 8)` the amounts of `soup` have doubled, too.
""",
        right=(
            (
                "larder/recipe.py",
                """\
    amounts = recipe["amounts"]
    for name in amounts:
        amounts[name] *= factor
""",
                """\
    amounts = {name: amount * factor for name, amount in recipe["amounts"].items()}
""",
            ),
        ),
        module="recipe",
        imports="from larder.recipe import scaled",
        old_tests="""\
def test_twice(self):
    soup = scaled({"people": 4, "amounts": {"leek": 2}}, 8)
    self.assertEqual(soup, {"people": 8, "amounts": {"leek": 4}})
""",
        new_tests="""\
def test_the_given_one_stays(self):
    soup = {"people": 4, "amounts": {"leek": 2}}
    scaled(soup, 8)
    self.assertEqual(soup, {"people": 4, "amounts": {"leek": 2}})
""",
    ),
    _Mistake(
        number=3,
        statement="""\
The shopping list has things that are there

What the larder has more of than is needed is on the list, with a negative amount. It should not be there.
Besides, the list should be sorted by name.
""",
        right=(
            (
                "larder/shopping.py",
                "    return lacks\n",
                "    return {name: lacks[name] for name in sorted(lacks) if lacks[name] > 0}\n",
            ),
        ),
        module="shopping",
        imports="from larder.shopping import lines, missing",
        old_tests="""\
def test_lines(self):
    self.assertEqual(lines({"leek": 2.0}), ["2 leek"])

def test_nothing_there(self):
    self.assertEqual(missing({"leek": 2}, {}), {"leek": 2})
""",
        new_tests="""\
def test_enough_there(self):
    self.assertEqual(missing({"leek": 2}, {"leek": 3}), {})

def test_order(self):
    self.assertEqual(list(missing({"leek": 2, "egg": 1}, {})), ["egg", "leek"])
""",
    ),
    _Mistake(
        number=4,
        statement="""\
Amounts of several recipes are lost

`total` should add up equal ingredients; it keeps those of the last recipe. And `lines` should print `2 egg`,
not `2.0 egg`.
""",
        right=(
            (
                "larder/recipe.py",
                "            amounts[name] = amount\n",
                "            amounts[name] = amounts.get(name, 0) + amount\n",
            ),
            ("larder/shopping.py", '{amount} {name}"', '{amount:g} {name}"'),
        ),
        module="recipe",
        imports="from larder.recipe import total\nfrom larder.shopping import lines",
        old_tests="""\
def test_one(self):
    self.assertEqual(total([{"amounts": {"egg": 2}}]), {"egg": 2})
""",
        new_tests="""\
def test_two(self):
    self.assertEqual(total([{"amounts": {"egg": 2}}, {"amounts": {"egg": 1}}]), {"egg": 3})

def test_numbers(self):
    self.assertEqual(lines({"egg": 2.0, "leek": 0.5}), ["2 egg", "0.5 leek"])
""",
    ),
)


@cache
def sample_tasks() -> tuple[RepositoryTask, ...]:
    """All of them."""
    return tuple(mistake.task() for mistake in _MISTAKES)


_making = threading.Lock()


def sample_checkouts() -> Path:
    """A folder with a checkout of each, for this process; it is removed when the process ends.

    Raises:
        SandboxError: it can't be made.
    """
    with _making:
        return _Checkouts.of_process(os.getpid()).folder


class _Checkouts:
    def __init__(self) -> None:
        self.folder = temporary.make()
        close_at_exit(self)
        try:
            for mistake in _MISTAKES:
                _make_checkout(self.folder / mistake.instance_id, mistake)
        except (OSError, subprocess.SubprocessError) as error:
            msg = f"could not make the repositories of the sample: {error}"
            raise SandboxError(msg) from error

    @staticmethod
    @cache
    def of_process(_pid: int) -> "_Checkouts":
        return _Checkouts()

    def close(self) -> None:
        """Remove the folder. Idempotent."""
        temporary.remove(self.folder)


def _make_checkout(folder: Path, mistake: _Mistake) -> None:
    """At the commit with the mistake, between an empty one and the one that mends it."""
    before, after = mistake.source(mended=False), mistake.source(mended=True)
    folder.mkdir()
    _git(folder, "init", "-q", "--template=", "-b", "main")
    for name, text in before.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    _git(folder, "commit", "-q", "--allow-empty", "-m", "Begin")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "The larder")
    for name in before:
        (folder / name).write_text(after[name], encoding="utf-8")
    _git(folder, "commit", "-q", "-a", "-m", mistake.statement.partition("\n")[0])
    _git(folder, "reset", "-q", "--hard", "HEAD~1")
    bubblewrap.give(folder)


def _git(folder: Path, *arguments: str) -> None:
    configuration = ("user.name=larder", "user.email=larder@localhost", "core.hooksPath=/dev/null")
    options = [word for setting in configuration for word in ("-c", setting)]
    subprocess.run(
        ["git", *options, *arguments],
        cwd=folder,
        env={"PATH": os.environ.get("PATH", os.defpath), **NO_CONFIGURATION},
        capture_output=True,
        check=True,
        timeout=GIT_SECONDS,
    )
