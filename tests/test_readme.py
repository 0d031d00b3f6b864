"""What the README shows works as it is shown."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_environment_of_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    example = re.search(r"```python\n(# my_tasks\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "my_tasks.py").write_text(example[1])
    # The installed command, which, unlike `python -m`, does not begin with the working folder on its path.
    command = Path(sys.executable).with_name("trieline")
    check = subprocess.run(
        [command, "envs", "check", "my_tasks:me/Echo-v0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert "OK    a wrong answer does not" in check.stdout
    assert "OK    a fork goes on as the original does: not offered: fork()" in check.stdout
