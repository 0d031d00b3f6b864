"""What `trieline train` does around its programs; the programs here are scripts."""

import logging
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from trieline.config import Config, load_config
from trieline.launcher import training_run as module
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.supervisor import PYTHON_OPTIONS, ChildError, ProcessSpec
from trieline.launcher.training_run import process_specs, supervise, with_absolute_paths

FAILS = "raise SystemExit('the reason')"
# Ends well when it is asked to, but takes its time.
SAVES = (
    "import signal, sys, time\n"
    "def save(number, frame):\n"
    "    time.sleep(1.0)\n"
    "    print('saved', flush=True)\n"
    "    sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
)
STAYS = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
    "time.sleep(600)"
)
AFTER_IT = "import time\nwhile 'ready' not in open({log!r}).read(): time.sleep(0.05)\n"


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children run `program.py ARGUMENTS` in place of `python -m trieline ARGUMENTS`."""
    shim = tmp_path / "shim"
    shim.write_text(f'#!/bin/sh\nshift {len(PYTHON_OPTIONS) + 2}\nexec {sys.executable} -c "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shim))
    monkeypatch.setattr(module, "STOP_OTHERS_S", 0.1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(["tiny"], [f"run.folder={tmp_path / 'runs'}"])


@pytest.fixture
def folder(config: Config) -> RunFolder:
    return RunFolder.create(config)


def spec(folder: RunFolder, name: str, code: str) -> ProcessSpec:
    return ProcessSpec(name=name, arguments=(code,), log_file=folder.log(name))


def test_a_learner_has_its_time_for_a_checkpoint_when_another_program_fails(
    config: Config, folder: RunFolder
) -> None:
    after = AFTER_IT.format(log=str(folder.log("learner"))) + FAILS
    specs = [spec(folder, "learner", SAVES), spec(folder, "policy-server", after)]
    with pytest.raises(ChildError, match=r"policy-server .* ended with exit code 1; (.|\n)*the reason"):
        supervise(config, folder, specs, Console(quiet=True))
    assert folder.log("learner").read_text() == "ready\nsaved\n"


def test_what_the_launcher_says_is_in_its_log_and_in_no_other_afterwards(
    config: Config, folder: RunFolder
) -> None:
    handlers = logging.getLogger().handlers[:]
    stays = spec(folder, "actor-0", STAYS)
    waits = AFTER_IT.format(log=str(folder.log("actor-0")))
    assert supervise(config, folder, [stays, spec(folder, "learner", waits)], Console(quiet=True))
    assert "actor-0" in folder.log("launcher").read_text()
    assert "did not stop" in folder.log("launcher").read_text()
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("resume", [False, True])
def test_a_killed_learner_goes_on_and_the_others_always_do(
    config: Config, folder: RunFolder, resume: bool
) -> None:
    specs = {one.name: one for one in process_specs(config, folder, resume=resume)}
    assert {specs[name].restart for name in ("policy-server", "actor-0")} == {"always"}
    learner = specs["learner"]
    assert learner.restart == "after a signal"
    assert [*learner.arguments, *learner.restart_arguments].count("--resume") == 1
    assert ("--resume" in learner.arguments) == resume


def test_policy_servers_of_other_machines_are_not_started_here(config: Config, folder: RunFolder) -> None:
    elsewhere = "tcp://192.0.2.1:7702"  # of documentation: no machine's
    for generate, expected in (
        (("ipc:///tmp/a", elsewhere), ["policy-server"]),
        (("ipc:///tmp/a", "ipc:///tmp/b", elsewhere), ["policy-server-0", "policy-server-1"]),
        (elsewhere, []),
    ):
        links = msgspec.structs.replace(config.links, generate=generate)
        specs = process_specs(msgspec.structs.replace(config, links=links), folder, resume=False)
        assert [one.name for one in specs if "policy-server" in one.name] == expected


def test_paths_are_meant_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    local = load_config(
        ["tiny"],
        ["model.path=my model", "run.folder=runs", "learner.replay=old/journal", "links.keys=our/keys"],
    )
    absolute = with_absolute_paths(local)
    assert absolute.model.path == str(tmp_path / "my model")
    assert absolute.run.folder == str(tmp_path / "runs")
    assert absolute.learner.replay == str(tmp_path / "old" / "journal")
    assert absolute.links.keys == str(tmp_path / "our" / "keys")
    assert with_absolute_paths(load_config(["tiny"], ["links.keys=~/keys"])).links.keys == "~/keys"
    for path in ("builtin:tiny", "owner/name"):
        named = load_config(["tiny"], [f"model.path={path}"])
        assert with_absolute_paths(named).model.path == path
