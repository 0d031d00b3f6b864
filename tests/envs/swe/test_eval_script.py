"""What an agent's shell has of the script that runs the tests."""

import pytest

from trieline.envs.swe.eval_script import EvalScript


@pytest.mark.parametrize(
    ("line", "exports"),
    [
        (
            "export PYTHONPATH=/testbed:/testbed/.git/packages",
            {"PYTHONPATH": "/testbed:/testbed/.git/packages"},
        ),
        ("export A=1 B=two", {"A": "1", "B": "two"}),
        ("export FLAGS='-O2 -g'", {"FLAGS": "-O2 -g"}),
        ("export EMPTY=", {"EMPTY": ""}),
        ("export PATH=/opt/bin:$PATH", {}),
        ("export WHEN=`date`", {}),
        ("export A=1; rm -rf /", {}),
        ("export NAME", {}),
        ("PYTHONPATH=/testbed", {}),
        (" export A=1", {}),
    ],
)
def test_plain_exports_are_found(line: str, exports: dict[str, str]) -> None:
    assert EvalScript(prepare=f"cd /testbed\n{line}\n:", test="true").exports == exports


def test_the_last_export_counts() -> None:
    assert EvalScript(prepare="export A=1\nexport A=2", test="true").exports == {"A": "2"}
