"""Learner and policy server never compute on the same cores at the same time, unless somebody asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trieline.common.machine_limits import usable_cores
from trieline.config import Config, load_config
from trieline.launcher.core_sharing import SPIN_COUNT, share_cores, spin_briefly

ROOT = Path(__file__).parents[2]


def config(*settings: str) -> Config:
    return load_config(["tiny"], settings)


def threads(shared: Config) -> tuple[int | None, int]:
    return shared.learner.threads, shared.policy_server.threads


@pytest.mark.parametrize(("cores", "expected"), [(1, (1, 1)), (2, (1, 1)), (5, (2, 3)), (16, (8, 8))])
def test_at_the_same_time_each_has_its_half(cores: int, expected: tuple[int, int]) -> None:
    assert threads(share_cores(config("learner.max_staleness=1"), cores)) == expected


def test_in_turns_each_has_all() -> None:
    assert threads(share_cores(config("learner.max_staleness=0"), 8)) == (8, 8)


def test_what_was_set_stays() -> None:
    settings = ("learner.max_staleness=1", "learner.threads=7", "policy_server.threads=3")
    assert threads(share_cores(config(*settings), 4)) == (7, 3)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize(("said", "expected"), [("3", 3), ("5,2", 5)])
def test_what_the_user_said_to_openmp_holds_for_each(
    staleness: int, said: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads(share_cores(config(f"learner.max_staleness={staleness}"))) == (expected, expected)


@pytest.mark.parametrize("said", ["", "many", "0"])
def test_what_says_nothing_is_as_if_it_was_not_there(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads(share_cores(config("learner.max_staleness=0"))) == (usable_cores(), usable_cores())


@pytest.mark.parametrize(
    ("set_already", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
    ids=str,
)
def test_how_threads_wait_is_said_unless_somebody_did(
    monkeypatch: pytest.MonkeyPatch, set_already: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(set_already))
    spin_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("verb", ["learner", "policy-server"])
def test_programs_that_compute_say_it_before_torch_is_there(verb: str, tmp_path: Path) -> None:
    # The verb then fails for want of a config.
    command = [verb, *(["--run", str(tmp_path)] if verb == "learner" else []), "--config", "tiny"]
    code = (
        "import os, sys\n"
        "from trieline.launcher import core_sharing\n"
        "said = core_sharing.spin_briefly\n"
        "core_sharing.spin_briefly = lambda: print('torch' in sys.modules) or said()\n"
        "from trieline.command_line import main\n"
        f"main({command} + ['--set', 'no.such.key=1'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["False"], ran.stderr
