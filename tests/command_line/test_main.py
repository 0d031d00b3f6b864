import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trieline.command_line import main
from trieline.launcher.machine import LEARNER_MODULES

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("verb", ["policy-server", "learner", "model"])
def test_a_machine_without_torch_is_told_what_to_install(verb: str, tmp_path: Path) -> None:
    arguments = {
        "policy-server": ["--config", "tiny"],
        "learner": ["--config", "tiny", "--run", str(tmp_path)],
        "model": ["builtin:tiny"],
    }[verb]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from trieline.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, verb, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith(
        f"trieline {verb}: torch is not installed: pip install 'trieline[learner]'"
    )
    assert "Traceback" not in ran.stderr


def test_a_gateway_that_records_has_its_own_place_for_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "--config", "tiny", "--record", "a", "--keep", "b"])
    assert ended.value.code == 2
    assert "argument --keep: not allowed with argument --record" in capsys.readouterr().err


def test_the_modules_are_those_of_the_extra() -> None:
    extra = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["learner"]
    assert sorted(re.split("[<>=]", requirement)[0] for requirement in extra) == sorted(LEARNER_MODULES)


STRANGERS = """
import sys
sys.stderr.write("taken from the working folder\\n")
raise SystemExit(9)
"""
ENVIRONMENT = """
import gymnasium
from trieline.envs import Text

class Echo(gymnasium.Env):
    observation_space = Text(200)
    action_space = Text(200)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "Say it.", {}

    def step(self, action):
        return "", 1.0, True, False, {}

gymnasium.register(id="here/Echo-v0", entry_point=Echo)
"""


@pytest.fixture
def working_folder(tmp_path: Path) -> Path:
    """With modules that have the names of installed ones, and an environment."""
    for name in ("queue", "threading", "argparse", "pathlib", "numpy", "msgspec"):
        (tmp_path / f"{name}.py").write_text(STRANGERS)
    (tmp_path / "my_envs.py").write_text(ENVIRONMENT)
    return tmp_path


@pytest.mark.parametrize("command", [["-m", "trieline"], ["-P", "-m", "trieline"]])
def test_the_working_folder_holds_environments_and_passes_for_no_installed_module(
    working_folder: Path, command: list[str]
) -> None:
    ran = subprocess.run(
        [sys.executable, *command, "envs", "play", "my_envs:here/Echo-v0"],
        cwd=working_folder,
        input="it\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    assert "reward 1" in ran.stdout


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_no_locale_ends_a_command(tmp_path: Path, locale: str) -> None:
    recipe = tmp_path / "größer.toml"
    recipe.write_text("[run]\nname = 'größer 日本'\n", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "trieline", "train", "--config", "tiny", "--config", str(recipe), "--dry-run"],
        env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert ran.stderr == b""
    assert ran.returncode == 0


def test_an_error_of_a_file_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "\x1b[2J"
    assert main(["learner", "--config", "tiny", "--run", str(run)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"trieline learner: {tmp_path}/file/\\x1b[2J/logs: Not a directory"
