"""What the README shows works as it is shown."""

import json
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


def test_six_lines_of_toml_name_the_tasks_of_a_file(tmp_path: Path) -> None:
    text = README.read_text()
    example = re.search(r"six lines of TOML:\n\n```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) == 6
    (tmp_path / "questions.toml").write_text(example[1])
    rows = [{"question": f"What is {n} plus 1?", "answer": n + 1} for n in range(40)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = Path(sys.executable).with_name("trieline")
    listed = subprocess.run(
        [command, "envs", "tasks", "--config", "questions.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (env,) = json.loads(listed.stdout)
    train, test = set(env["lists"]["train"]), set(env["lists"]["test"])
    assert len(train) + len(test) == 40
    assert not train & test
