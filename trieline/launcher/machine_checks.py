"""`trieline check`: is this machine ready for this configuration? OK, WARN or FAIL and the next step."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trieline.actors.env_session import first_task
from trieline.actors.errors import EnvironmentSetupError
from trieline.config import Config
from trieline.launcher.machine import INSTALL_LEARNER, LEARNER_MODULES
from trieline.wire.addresses import reason_against
from trieline.wire.config import ADDRESSES, LinksConfig

# SmolLM2-135M in training: float32 master weights, two moments, gradients, activations, the server's copy.
MEMORY_WANTED_GIB = 6.0
DISK_WANTED_GIB = 5.0


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
    yield from _check_sandboxes()
    yield from _check_environments(config)
    yield from _check_addresses(config)


def _check_resources(config: Config) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding(
        "OK" if cores >= 2 else "WARN",
        "cores",
        f"{cores}",
        "" if cores >= 2 else "expect half the speed of two cores",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    enough = memory >= MEMORY_WANTED_GIB
    yield Finding(
        "OK" if enough else "WARN", "memory", f"{memory:.1f} GiB",
        "" if enough else f"the default recipe wants {MEMORY_WANTED_GIB:.0f} GiB; use --config tiny",
    )  # fmt: skip
    runs = Path(config.run.folder)
    at = next(p for p in (runs, *runs.resolve().parents) if p.exists())
    free = shutil.disk_usage(at).free / 2**30
    enough = free >= DISK_WANTED_GIB
    yield Finding(
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
    from trieline.learner.process import check_settings

    dtype = str(choose_dtype(config.model.dtype)).removeprefix("torch.")
    try:
        device = choose_device(config.learner.device)
        yield Finding("OK", "learner", f"torch {torch.__version__} on {device}, computes in {dtype}")
        check_settings(config.learner, config.envs)
    except LearnerError as error:
        yield Finding("FAIL", "settings", str(error), "`trieline train` would stop there")
    else:
        yield Finding("OK", "settings", "agree with each other")


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
            task = first_task(env_config, env_config.episode.turn_timeout_s or config.actor.turn_timeout_s)
        except EnvironmentSetupError as error:
            yield Finding("FAIL", env_config.id, str(error), "trieline envs list")
        else:
            first_line = next(iter(task.observation.strip().splitlines()), "")
            yield Finding("OK", env_config.id, f"first task: {first_line[:60]!r}")


def _check_addresses(config: Config) -> Iterator[Finding]:
    default = LinksConfig()
    for name in ADDRESSES:
        address = getattr(config.links, name)
        if (reason := reason_against(address)) is None:
            yield Finding("OK", f"links.{name}", f"{address} is free")
        elif address == getattr(default, name):
            step = "`trieline train` picks free addresses itself in place of the default ones"
            yield Finding("WARN", f"links.{name}", f"can't bind {address}: {reason}", step)
        else:
            step = f"`trieline train` would stop there: --set links.{name}=tcp://127.0.0.1:PORT"
            yield Finding("FAIL", f"links.{name}", f"can't bind {address}: {reason}", step)
