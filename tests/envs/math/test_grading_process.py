from pathlib import Path

import pytest

from trieline.envs.math.grading_process import GradingPool


def test_a_grader_takes_no_module_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "queue", "sympy", "math_verify"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with GradingPool(size=1, cpu_seconds=10.0) as pool:
        assert pool.verify("1/2", "0.5") == pool.verify("3", "3") == "equal"
