"""Learner and policy server never compute on the same cores at the same time, unless somebody asks for it."""

import pytest

from trieline.common.machine_limits import usable_cores
from trieline.config import Config, load_config
from trieline.launcher.core_sharing import share_cores


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
