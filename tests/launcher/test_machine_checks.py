"""`trieline check` sees what would stop a run."""

import os
import socket
from pathlib import Path

import pytest

from trieline.config import load_config
from trieline.launcher import machine_checks as module
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
    assert found.verdict == "FAIL"
    assert f"can't bind {address}: another process listens there" in found.text


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (f"ipc:///var/tmp/{'a' * 120}", "at most 107 bytes"),
        ("ipc:///nosuchfolder/s", "expected a folder at /nosuchfolder, found none"),
        ("tcp://0.0.0.0:7701", "so it needs keys"),
        ("http://127.0.0.1:7701", "expected an address like"),
        ("tcp://127.0.0.1:99999", "expected a port from 1 to 65535"),
    ],
)
def test_an_address_that_can_not_be_bound_fails(address: str, reason: str) -> None:
    found = findings(f"links.weights_fetch={address}", "links.keys=/no/such/folder")
    assert found["links.weights_fetch"].verdict == "FAIL"
    assert reason in found["links.weights_fetch"].text
    assert found["links.generate"].verdict in ("OK", "WARN")


def test_what_a_control_group_leaves_is_told_beside_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(module, "usable_memory", lambda: 2 * 2**30)
    found = findings()
    assert (found["cores"].verdict, found["cores"].text) == ("WARN", f"0.5 (of {os.cpu_count()})")
    assert found["memory"].verdict == "WARN"
    assert found["memory"].text.startswith("2.0 GiB (of ")


def test_a_run_folder_that_can_not_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(f"run.folder={tmp_path / 'file' / 'runs'}")["disk"]
    assert found.verdict == "FAIL"
    assert found.text == f"{tmp_path}/file/runs can't be written"


@pytest.mark.parametrize("name", ["trieline/NoSuch-v0", "no_such_module:me/Echo-v0"])
def test_an_unknown_environment_fails(name: str) -> None:
    config = load_config(["tiny"], [f"envs=[{{id = '{name}'}}]"])
    (found,) = [finding for finding in check_machine(config) if finding.subject == name]
    assert found.verdict == "FAIL"


def test_an_engine_that_is_not_installed_fails() -> None:
    here = findings("policy_server.backend=vllm", "policy_server.engine.command=['/no/such/vllm', 'serve']")
    assert here["engine"].verdict == "FAIL"
    assert "no program '/no/such/vllm'" in here["engine"].text
    there = findings("policy_server.backend=sglang", "policy_server.engine.urls=['http://h:1']")["engine"]
    assert (there.verdict, there.text) == ("OK", "sglang at http://h:1, asked at the start")
    assert "engine" not in findings()
