from pathlib import Path

import pytest

from trieline.envs.math.grading_process import GradingProcess


def test_a_grader_takes_no_module_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "queue", "sympy", "math_verify"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    process = GradingProcess(cpu_seconds=10.0)
    try:
        assert process.verify("1/2", "0.5") == process.verify("3", "3")
    finally:
        process.close()
