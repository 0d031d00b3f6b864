"""Classic rows get their script from swebench 4, where it is, and say what to install where it is not."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.envs.swe.sample_rows import CLASSIC
from trieline.envs.errors import TaskError
from trieline.envs.swe.grading import exam_of
from trieline.envs.swe.repository_task import task_of

TASK = replace(task_of(CLASSIC), log_parser="parse_log_pytest")
CONSTANTS = """
TEA = {"1.2": {"test_cmd": "pytest -rA"}, "1.3": {"test_cmd": "tox"}, "1.4": {}}
MAP_REPO_VERSION_TO_SPECS = {"kitchen/tea": TEA}
"""
# The lines are those of `make_eval_script_list_py` of swebench 4.1.0.
SCRIPTS = """
def make_eval_script_list(instance, specs, env_name, repo_directory, base_commit, test_patch):
    return [
        "source /opt/miniconda3/bin/activate",
        f"conda activate {env_name}",
        f"cd {repo_directory}",
        "git status",
        "git show",
        f"git -c core.fileMode=false diff {base_commit}",
        f"git checkout {base_commit} tests/test_pot.py",
        f"git apply -v - <<'EOF_114329324912'\\n{test_patch}\\nEOF_114329324912",
        ": '>>>>> Start Test Output'",
        f"{specs['test_cmd']} tests/test_pot.py",
        ": '>>>>> End Test Output'",
        f"git checkout {base_commit} tests/test_pot.py",
    ]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in place of swebench, empty."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "swebench"]:
        monkeypatch.delitem(sys.modules, module)
    folder = tmp_path / "swebench" / "harness" / "test_spec"
    folder.mkdir(parents=True)
    for part in (folder, folder.parent, folder.parent.parent):
        (part / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.parent
    for module in [name for name in sys.modules if name.partition(".")[0] == "swebench"]:
        del sys.modules[module]


def test_its_script_is_made_of_the_tables(package: Path) -> None:
    (package / "constants.py").write_text(CONSTANTS)
    (package / "test_spec/create_scripts.py").write_text(SCRIPTS)
    script = exam_of(TASK).script
    assert script.test == "pytest -rA tests/test_pot.py"
    assert script.prepare == "source /opt/miniconda3/bin/activate\nconda activate testbed\ncd /testbed"
    said = r"expected a version of kitchen/tea that swebench 4 knows \(1\.2, 1\.3, 1\.4\), got '2'"
    with pytest.raises(TaskError, match=said):
        exam_of(replace(TASK, version="2"))
    with pytest.raises(TaskError, match="could make no script of the row: KeyError"):
        exam_of(replace(TASK, version="1.4"))
    with pytest.raises(TaskError, match=r"of kitchen/mug that swebench 4 knows \(none\), got '1\.2'"):
        exam_of(replace(TASK, repo="kitchen/mug"))


def test_without_the_tables_the_extra_is_named(package: Path) -> None:
    assert package.is_dir()  # as with swebench 5, which has none
    with pytest.raises(TaskError, match=r"got neither: pip install 'trieline\[swe-classic\]'"):
        exam_of(TASK)
