"""Tasks made of a tiny package through the command, without an index: gold resolves them, empty does not."""

import importlib.metadata
import json
import zipfile
from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository
from tests.envs.swe.workspaces import PYTEST
from tests.launcher.test_package_downloads import make_sdist
from trieline.command_line import main
from trieline.config import ConfigError
from trieline.envs.swe.rows import read_rows
from trieline.envs.swe.task_making.statements import changed_lines, tells
from trieline.launcher.package_downloads import sha256_of
from trieline.launcher.task_journal import TaskJournal, Tried
from trieline.launcher.task_recipes import read_task_recipe, task_recipe_names

CALC = '''\
"""Counts."""


def add(a, b):
    return a + b


def largest(numbers):
    best = numbers[0]
    for number in numbers[1:]:
        if number > best:
            best = number
    return best
'''
SIGN = "\n\ndef sign(a):\n    return 1 if a > 0 else {zero}\n"
TESTS = """\
import pytest

from calc import add, largest{names}


@pytest.mark.parametrize("b", [0, 1, 2, 3, 4])
def test_add(b):
    assert add(0, b) == b


def test_add_more():
    assert add(40, 2) == 42


def test_largest():
    assert largest([1, 3, 2]) == 3


def test_largest_of_one():
    assert largest([1]) == 1


def test_nothing():
    assert largest
"""
SIGN_TEST = """

def test_sign():
    assert sign(1) == 1
    assert sign(0) == 0
"""
CHANGES = (
    "Changes\n=======\n\n1.1\n---\n\n- `sign` tells zero from negative numbers (#7).\n\n1.0\n---\n\n- New.\n"
)
OLD = {
    "src/calc.py": CALC + SIGN.format(zero="-1"),
    "tests/test_calc.py": TESTS.format(names=""),
    "setup.cfg": "[tool:pytest]\naddopts = --no-such-option\n",
}
NEW = {
    **OLD,
    "src/calc.py": CALC + SIGN.format(zero="0 if a == 0 else -1"),
    "tests/test_calc.py": TESTS.format(names=", sign") + SIGN_TEST,
    "CHANGES.rst": CHANGES,
}
BEST = "    best = numbers[0]\n"
NEWER = {
    **NEW,
    "src/calc.py": NEW["src/calc.py"].replace(BEST, f"    if not numbers:\n        return None\n{BEST}"),
    "tests/test_calc.py": NEW["tests/test_calc.py"]
    + "\n\ndef test_of_none():\n    assert largest([]) is None\n",
}
RELEASES = {"1.0": OLD, "1.1": NEW, "1.2": NEWER}
NO_PYGMENTS = ("pygments/lexers/", "pygments/styles/")
NEEDED_PYGMENTS = ("__init__.py", "_mapping.py", "python.py", "diff.py", "default.py")


def make_wheel(folder: Path, name: str) -> tuple[str, Path]:
    """One of a package that is installed here; of its lexers, those that pytest asks for."""
    version = importlib.metadata.version(name)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in importlib.metadata.files(name) or ():
            inner = file.as_posix()
            left_out = inner.startswith(NO_PYGMENTS) and not inner.endswith(NEEDED_PYGMENTS)
            if ".." not in file.parts and "__pycache__" not in file.parts and not left_out:
                wheel.write(str(file.locate()), inner)
    return f"{name}=={version}", path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of two packages, one of which can't be used. What they need lies where it would be downloaded to."""
    downloads = tmp_path / "made/downloads"
    downloads.mkdir(parents=True)
    wheels = dict(make_wheel(downloads, name) for name in PYTEST)
    sdists = {v: make_sdist(downloads, "calc", v, files) for v, files in RELEASES.items()}
    broken = make_sdist(downloads, "broken", "1", {"tests/test_a.py": "def test_a(:\n", "src/a.py": ""})
    history = Repository(tmp_path / "history", tree(OLD))
    history.write(tree(NEW))
    history.git("add", "-A")
    history.git("commit", "-q", "-m", "Tell zero from negative numbers\n\nThere was no way to.")
    hashes = "\n".join(f'"{name}" = "{sha256_of(path)}"' for name, path in wheels.items())
    path = tmp_path / "recipe.toml"
    path.write_text(f"""
seed = 1
runner = {json.dumps(list(wheels))}
[wheels]
{hashes}
[[packages]]
name = "broken"
repo = "me/broken"
license = "MIT"
sources = ["src"]
tests = ["tests"]
sdists = {{ "1" = "{sha256_of(broken)}" }}
mutations = {{ version = "1", count = 1 }}
[[packages]]
name = "calc"
repo = "me/calc"
license = "MIT"
sources = ["src"]
tests = ["tests"]
import_paths = ["src"]
releases = [{{ before = "1.0", after = "1.1" }}, {{ before = "1.1", after = "1.2", split = true }}]
mutations = {{ version = "1.1", count = 1 }}
history = {{ checkout = "history", count = 2 }}
[packages.sdists]
"1.0" = "{sha256_of(sdists["1.0"])}"
"1.1" = "{sha256_of(sdists["1.1"])}"
"1.2" = "{sha256_of(sdists["1.2"])}"
""")
    return path


def tree(files: dict[str, str]) -> dict[str, tuple[bytes, bool]]:
    return {name: (text.encode(), False) for name, text in files.items()}


@pytest.mark.end_to_end
def test_tasks_are_made_and_gold_resolves_them(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    command = ["tasks", "make", "--recipe", str(recipe), "--output", str(folder)]
    assert main([*command, "--packages", "broken"]) == 0
    assert "broken, mutations of 1: broken: not_graded" in capsys.readouterr().out
    assert main([*command, "--timeout", "60"]) == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "summary.json").read_text())
    # The commit asks for what the release asks for.
    assert found["packages"] == {"broken": {}, "calc": {"mutation": 1, "release": 2}}
    assert found["refused"]["duplicate"] == 1
    assert "| calc | 1 | 2 | 3 |" in said
    tasks = read_rows(folder / "tasks.jsonl")
    assert sorted(path.name for path in (folder / "checkouts").iterdir()) == [t.instance_id for t in tasks]
    for task in tasks:
        assert not tells(task.problem_statement, changed_lines(task.patch))
        assert len(task.pass_to_pass) > len(task.fail_to_pass)
        assert all(test.startswith("tests/test_calc.py::") for test in task.fail_to_pass)
    release = next(task for task in tasks if "-to-" in task.instance_id)
    assert release.fail_to_pass == ("tests/test_calc.py::test_sign",)
    assert "tells zero from negative numbers" in release.problem_statement
    assert found["refused"]["split"] == 1
    part = next(task for task in tasks if "-1.2-fix-" in task.instance_id)
    assert part.fail_to_pass == ("tests/test_calc.py::test_of_none",)
    assert changed_lines(part.patch) == {"if not numbers:", "return None"}
    assert not (folder / ".work").exists()

    before = (folder / "candidates.jsonl").read_text()
    assert main(command) == 0
    assert (folder / "candidates.jsonl").read_text() == before

    bench = ["bench", "swe", "--data", str(folder / "tasks.jsonl"), "--checkouts", str(folder / "checkouts")]
    bench += ["--backend", "bubblewrap", "--timeout", "60"]
    for policy, resolved in (("gold", 3), ("empty", 0)):
        assert main([*bench, "--policy", policy, "--output", str(tmp_path / policy)]) == 0
        report = json.loads((tmp_path / policy / f"{policy}.trieline.json").read_text())
        assert report["resolved_instances"] == resolved
        assert report["error_instances"] == 0


def test_the_recipes_that_ship_can_be_read() -> None:
    assert "mini" in task_recipe_names()
    mini = read_task_recipe("mini")
    assert len(mini.packages) >= 8
    assert {package.license for package in mini.packages} <= {"MIT", "BSD-3-Clause", "Apache-2.0"}


@pytest.mark.parametrize(
    ("was", "new", "said"),
    [
        ('"1.1" = "', '"1.3" = "', r"calc: expected hashes in `wheels` and `sdists`, got none of \['1\.1'"),
        ('sources = ["src"]', 'sources = ["../src"]', "packages"),
        ("seed = 1", "seeds = 1", "seeds"),
        ("count = 1", "count = 0", "count"),
        ('name = "broken"', 'name = "calc"', "each once"),
        ("[[packages]]", "[[packages", "recipe.toml"),
    ],
)
def test_a_recipe_that_can_not_be_used(recipe: Path, was: str, new: str, said: str) -> None:
    recipe.write_text(recipe.read_text().replace(was, new))
    with pytest.raises(ConfigError, match=said):
        read_task_recipe(str(recipe))
    with pytest.raises(ConfigError, match=r"expected mini or a \.toml file"):
        read_task_recipe("nothing")


def test_a_journal_forgets_what_was_cut_off_and_what_has_no_checkout(tmp_path: Path) -> None:
    path, checkouts = tmp_path / "candidates.jsonl", tmp_path / "checkouts"
    journal = TaskJournal(path, checkouts)
    for name, cause in (("a", ""), ("b", ""), ("c", "gold_fails")):
        journal.add(Tried(instance_id=name, package="p", kind="release", cause=cause))
    with path.open("a") as file:
        file.write('{"instance_id": "d", "pack')
    (checkouts / "a").mkdir(parents=True)
    kept = TaskJournal(path, checkouts)
    assert [tried.instance_id for tried in kept.tried()] == ["a", "c"]
    assert [tried.instance_id for tried in kept.made("p", "release")] == ["a"]
    assert len(path.read_text().splitlines()) == 2
