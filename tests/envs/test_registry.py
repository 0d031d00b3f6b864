"""Environments are found by id, and a wrong one is met with the right one."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest

from trieline.envs import list_environments, make_env, registry
from trieline.envs.errors import EnvError, UnknownEnvError

MODULE = """
import gymnasium
from trieline.envs.game.guess_number import GuessNumber

gymnasium.register(id="{namespace}/Mine-v0", entry_point=GuessNumber)
"""


@pytest.mark.parametrize(
    ("env_id", "close"),
    [
        ("trieline/Aritmetic-v0", "trieline/Arithmetic-v0"),
        ("Arithmetic-v0", "trieline/Arithmetic-v0"),
        ("Arithmetic", "trieline/Arithmetic-v0"),
        ("trieline/Arithmetic-v7", "trieline/Arithmetic-v0"),
        ("trileine/GuessNumber-v0", "trieline/GuessNumber-v0"),
        ("xyzzy", "trieline/PythonFunction-v0"),
        ("trieline.envs:trieline/Nothing-v0", "trieline/"),
    ],
)
def test_unknown_ids_are_answered_with_known_ones(env_id: str, close: str) -> None:
    with pytest.raises(UnknownEnvError, match=f"unknown environment '{env_id}'.*{close}"):
        make_env(env_id)


def test_unknown_modules_are_named() -> None:
    with pytest.raises(UnknownEnvError, match="there is no module 'no_such_module'"):
        make_env("no_such_module:me/Task-v0")


@pytest.mark.parametrize("env_id", ["", ":", "a b/c", "trieline/Arithmetic-v", "\ud800"])
def test_malformed_ids_are_errors_of_ours(env_id: str) -> None:
    with pytest.raises(EnvError):
        make_env(env_id)


def test_a_module_registers_its_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_module_a.py").write_text(MODULE.format(namespace="mine_a"))
    monkeypatch.syspath_prepend(tmp_path)
    env: Any = make_env("my_module_a:mine_a/Mine-v0", level=1).unwrapped
    assert env.level == 1
    assert "mine_a/Mine-v0" in {row["id"] for row in list_environments()}


def test_packages_announce_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_module_b.py").write_text(MODULE.format(namespace="mine_b"))
    monkeypatch.syspath_prepend(tmp_path)
    announced = [
        importlib.metadata.EntryPoint("broken", "no_such_module", registry.ENTRY_POINT_GROUP),
        importlib.metadata.EntryPoint("mine", "my_module_b", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: announced)
    assert make_env("mine_b/Mine-v0").reset(seed=0)
    assert "my_module_b" in sys.modules


def test_listing_describes_ours_first() -> None:
    rows = list_environments()
    assert [row["id"] for row in rows[: len(registry.OWN_ENVS)]] == [env.id for env in registry.OWN_ENVS]
    assert all(row["description"] for row in rows)
