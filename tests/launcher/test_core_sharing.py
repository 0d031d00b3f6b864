"""Learner and policy server never compute on the same cores at the same time, unless somebody asks for it."""

import pytest

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
    assert threads(share_cores(config("learner.max_staleness=0"), 8)) == (None, 0)


def test_what_was_set_stays() -> None:
    settings = ("learner.max_staleness=1", "learner.threads=7", "policy_server.threads=3")
    assert threads(share_cores(config(*settings), 4)) == (7, 3)
