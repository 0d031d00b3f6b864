"""`trieline check` sees what would stop a run."""

import socket

import pytest

from trieline.config import load_config
from trieline.launcher.machine_checks import Finding, check_machine


def findings(*settings: str) -> dict[str, Finding]:
    config = load_config(["tiny"], settings)
    return {finding.subject: finding for finding in check_machine(config)}


def test_the_shipped_recipe_passes_on_this_machine() -> None:
    found = findings()
    assert found["settings"].verdict == "OK"
    assert found["learner"].verdict == "OK"
    assert "sandbox" not in found


def test_settings_that_stop_the_learner_fail() -> None:
    found = findings("learner.objective.advantage=vtrace", "learner.objective.scale_rewards=group")[
        "settings"
    ]
    assert found.verdict == "FAIL"
    assert "objective.scale_rewards" in found.text


def test_an_address_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        found = findings(f"links.generate={address}")["links.generate"]
    assert found.verdict == "WARN"
    assert address in found.text


@pytest.mark.parametrize("name", ["trieline/NoSuch-v0", "no_such_module:me/Echo-v0"])
def test_an_unknown_environment_fails(name: str) -> None:
    config = load_config(["tiny"], [f"envs=[{{id = '{name}'}}]"])
    (found,) = [finding for finding in check_machine(config) if finding.subject == name]
    assert found.verdict == "FAIL"
