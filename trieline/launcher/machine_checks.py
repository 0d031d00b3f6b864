"""`trieline check`: is this machine ready for this configuration? OK, WARN or FAIL and the next step."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trieline.actors.errors import EnvironmentSetupError
from trieline.common.credentials import without_credentials
from trieline.common.folders import can_be_written
from trieline.common.machine_limits import cpu_quota, machine_memory, usable_memory
from trieline.config import Config, ConfigError
from trieline.launcher.environment_checks import first_line
from trieline.launcher.machine import INSTALL_LEARNER, LEARNER_MODULES
from trieline.launcher.trackers.tracker import expect_installed
from trieline.wire.addresses import is_elsewhere
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.gate import check_peer
from trieline.wire.sockets import reason_against_binding

# SmolLM2-135M in training: float32 master weights, two moments, gradients, activations, the server's copy.
MEMORY_WANTED_GIB = 6.0
CORES_WANTED = 2
DISK_WANTED_GIB = 5.0
USUAL_PROGRAMS = {"vllm": "vllm", "sglang": "python"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `trieline check`."""

    verdict: Literal["OK", "WARN", "FAIL"]
    subject: str
    text: str
    next_step: str = ""


def check_machine(config: Config) -> Iterator[Finding]:
    """Everything that can be known before a run starts, cheapest first."""
    yield from _check_resources(config)
    yield from _check_learner(config)
    yield from _check_engine(config)
    yield from _check_sandboxes()
    yield from _check_environments(config)
    yield from _check_addresses(config)
    yield from _check_trackers(config)


def _check_resources(config: Config) -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0))
    cores = min(allowed, cpu_quota() or allowed)
    enough = cores >= CORES_WANTED
    yield Finding(
        "OK" if enough else "WARN", "cores", _part(f"{cores:g}", f"{os.cpu_count() or allowed}"),
        "" if enough else f"expect less than the speed of {CORES_WANTED} cores",
    )  # fmt: skip
    memory = usable_memory() / 2**30
    enough = memory >= MEMORY_WANTED_GIB
    yield Finding(
        "OK" if enough else "WARN", "memory",
        _part(f"{memory:.1f} GiB", f"{machine_memory() / 2**30:.1f} GiB"),
        "" if enough else f"the default recipe wants {MEMORY_WANTED_GIB:.0f} GiB; use --config tiny",
    )  # fmt: skip
    yield _check_disk(Path(config.run.folder).absolute())


def _part(usable: str, whole: str) -> str:
    """What this process may use, beside what the machine has where that is more."""
    return usable if usable == whole else f"{usable} (of {whole})"


def _check_disk(runs: Path) -> Finding:
    if not can_be_written(runs):
        step = "set run.folder to a place that this user can write; `trieline train` would stop there"
        return Finding("FAIL", "disk", f"{runs} can't be written", step)
    free = shutil.disk_usage(next(p for p in (runs, *runs.parents) if p.exists())).free / 2**30
    enough = free >= DISK_WANTED_GIB
    return Finding(
        "OK" if enough else "WARN", "disk", f"{free:.0f} GiB free for {runs}",
        "" if enough else "set run.folder to a place with more room, or learner.checkpoint_every higher",
    )  # fmt: skip


def _check_learner(config: Config) -> Iterator[Finding]:
    missing = [name for name in LEARNER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("FAIL", "learner", f"not installed: {', '.join(missing)}", INSTALL_LEARNER)
        return
    import torch

    from trieline.learner.errors import LearnerError
    from trieline.learner.model.compute_device import choose_device
    from trieline.learner.model.compute_dtype import choose_dtype
    from trieline.learner.settings import check_settings

    try:
        device = choose_device(config.learner.device)
        dtype = str(choose_dtype(config.model.dtype, device)).removeprefix("torch.")
        yield Finding("OK", "learner", f"torch {torch.__version__} on {device}, computes in {dtype}")
        if device.type == "cuda" and config.learner.lora is None and config.learner.ranks == 1:
            yield _check_memory(config, torch.cuda.mem_get_info(device)[1])
        check_settings(config.learner, config.envs)
    except LearnerError as error:
        yield Finding("FAIL", "settings", str(error), "`trieline train` would stop there")
    else:
        yield Finding("OK", "settings", "agree with each other")


def _check_engine(config: Config) -> Iterator[Finding]:
    """An engine of others that is to be started here."""
    server = config.policy_server
    if server.backend == "own":
        return
    if server.engine.urls:
        where = without_credentials(", ".join(server.engine.urls))
        yield Finding("OK", "engine", f"{server.backend} at {where}, asked at the start")
        return
    program = (server.engine.command or [USUAL_PROGRAMS[server.backend]])[0]
    if shutil.which(program) is None:
        step = "policy_server.engine.command names the program of its own environment (docs/engines.md)"
        yield Finding("FAIL", "engine", f"{server.backend}: there is no program {program!r}", step)
    else:
        yield Finding("OK", "engine", f"{server.backend}, started by {program}")


def _check_memory(config: Config, card_bytes: int) -> Finding:
    from trieline.learner.memory_check import UnknownModelError, shortage

    try:
        text, step = shortage(config.model, config.learner, config.policy_server, card_bytes)
    except UnknownModelError:
        text, step = f"{config.model.path} is not here yet", ""
        return Finding("WARN", "GPU memory", text, "trieline check memory --model FOLDER")
    return Finding("WARN" if step else "OK", "GPU memory", text, step)


def _check_sandboxes() -> Iterator[Finding]:
    from trieline.envs.sandbox import available_backends

    backends = available_backends()
    for name, reason in backends.items():
        yield Finding(
            "OK" if reason is None else "WARN", f"sandbox {name}", "works" if reason is None else reason
        )
    if all(reason is not None for name, reason in backends.items() if name != "none"):
        yield Finding(
            "WARN", "sandbox", "neither Docker nor bubblewrap works, so code environments can't run",
            "as root: apt-get install bubblewrap; or train without code by leaving its [[envs]] entry out",
        )  # fmt: skip


def _check_environments(config: Config) -> Iterator[Finding]:
    for env_config in config.envs:
        try:
            seen = first_line(env_config, config)
        except EnvironmentSetupError as error:
            yield Finding("FAIL", env_config.id, str(error), "trieline envs list")
        else:
            yield Finding("OK", env_config.id, f"first task: {seen[:60]!r}")


def _check_trackers(config: Config) -> Iterator[Finding]:
    for name in config.run.trackers:
        try:
            expect_installed([name])
        except ConfigError as error:
            yield Finding("FAIL", f"tracker {name}", str(error), "`trieline train` would stop there")
        else:
            yield Finding("OK", f"tracker {name}", "installed; see its log for whether it can be reached")


def _check_addresses(config: Config) -> Iterator[Finding]:
    default = LinksConfig()
    for name, address in config.links.addresses():
        if name == "generate" and is_elsewhere(address):
            yield _check_elsewhere(address, config.links.keys)
        elif (reason := reason_against_binding(address, config.links.keys)) is None:
            yield Finding("OK", f"links.{name}", f"{address} is free")
        elif getattr(config.links, name) == getattr(default, name):
            step = "`trieline train` picks free addresses itself in place of the default ones"
            yield Finding("WARN", f"links.{name}", f"can't bind {address}: {reason}", step)
        else:
            step = f"`trieline train` would stop there: --set links.{name}=tcp://127.0.0.1:PORT"
            yield Finding("FAIL", f"links.{name}", f"can't bind {address}: {reason}", step)


def _check_elsewhere(address: str, keys: str) -> Finding:
    try:
        check_peer(address, keys)
    except AddressError as error:
        return Finding("FAIL", "links.generate", str(error), "`trieline train` would stop there")
    return Finding("OK", "links.generate", f"{address} is another machine's, whose key is known")
