import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


def test_the_modules_are_those_of_the_extra() -> None:
    extra = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["learner"]
    assert sorted(re.split("[<>=]", requirement)[0] for requirement in extra) == sorted(LEARNER_MODULES)
