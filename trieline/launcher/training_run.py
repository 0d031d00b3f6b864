"""One training run on this machine: prepare, start the programs, watch, stop in order, write the report."""

import json
import logging
import shlex
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import msgspec
from rich.console import Console

from trieline.actors.env_session import first_task
from trieline.config import Config, write_config
from trieline.launcher.core_sharing import share_cores
from trieline.launcher.progress import Progress
from trieline.launcher.run_folder import MetricsTail, RunFolder
from trieline.launcher.supervisor import ChildError, ProcessSpec, Supervisor
from trieline.wire.addresses import free_loopback_address, reason_against
from trieline.wire.config import ADDRESSES, LinksConfig, ModelConfig
from trieline.wire.journal import expect_no_writer

log = logging.getLogger(__name__)

POLL_S = 0.25
# A download of tens of GB over a slow line; what hangs for longer is said to hang.
PREPARE_MODEL_S = 7200.0
# The learner finishes or abandons its step and writes a checkpoint before it goes.
STOP_LEARNER_S = 90.0
# Actors are told by the learner that training is over; the policy server has nothing to save.
STOP_OTHERS_S = 15.0


def run_training(config: Config, *, folder: RunFolder | None, resume: bool) -> int:
    """Run to the end, to a failure, or to Ctrl-C. Returns the exit status.

    Raises:
        ChildError: a program failed in a way that ends the run.
        JournalError: the run in `folder` is still going.
    """
    console = Console(stderr=False)
    if folder is not None:
        expect_no_writer(folder.journal)
    links = _own_links(config.links) if folder is None else _still_free(config.links, console)
    config = msgspec.structs.replace(config, links=links, model=prepare_model(config.model, console))
    config = share_cores(config)
    check_environments(config)
    if folder is None:
        folder = RunFolder.create(config)
    else:
        write_config(config, folder.config)  # with the addresses of this start
    console.print(f"run folder: {folder.path}", highlight=False, markup=False, soft_wrap=True)
    stopping = threading.Event()
    previous = {s: signal.signal(s, set_on_signal(stopping)) for s in (signal.SIGINT, signal.SIGTERM)}
    supervisor = Supervisor(process_specs(config, folder, resume=resume))
    try:
        # The start stands inside the `try`, so that what did start is stopped when the rest does not.
        supervisor.start()
        finished = watch_learner(config, folder, supervisor, console, stopping)
    finally:
        supervisor.close(STOP_OTHERS_S)
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not finished:
        console.print(
            f"stopped. Go on with: trieline train --resume {shlex.quote(str(folder.path))}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return 130
    from trieline.launcher.report import write_report

    write_report(folder)
    text = folder.report.read_text(encoding="utf-8")
    console.print(text.split("<!-- details -->")[0], highlight=False, markup=False)
    console.print(f"report: {folder.report}", highlight=False, markup=False, soft_wrap=True)
    return 0


def process_specs(config: Config, folder: RunFolder, *, resume: bool) -> list[ProcessSpec]:
    """The programs of a run. Each reads the run's config and can be started by hand with these arguments."""
    base = ("--config", str(folder.config))
    several = len(config.links.generate_addresses)
    servers = [
        ProcessSpec(name=name, arguments=("policy-server", *base), log_file=folder.log(name), restart=True)
        for name in (["policy-server"] if several == 1 else [f"policy-server-{i}" for i in range(several)])
    ]
    actors = [
        ProcessSpec(
            name=f"actor-{i}", arguments=("actor", *base), log_file=folder.log(f"actor-{i}"), restart=True
        )
        for i in range(config.run.actors)
    ]
    return [*servers, learner_spec(folder, resume=resume), *actors]


def learner_spec(folder: RunFolder, *, resume: bool) -> ProcessSpec:
    """The learner of a run."""
    resumed = ("--resume",) if resume else ()
    return ProcessSpec(
        name="learner",
        arguments=("learner", "--config", str(folder.config), "--run", str(folder.path), *resumed),
        log_file=folder.log("learner"),
    )


def prepare_model(model: ModelConfig, console: Console) -> ModelConfig:
    """Fetch or build the model once, in a child, since that takes torch and the launcher has none.

    Returns:
        The model with its precision decided, so that the run's config says it, and a resumed run on another
        machine goes on in it.

    Raises:
        ChildError: the model can't be had; the message is the child's.
    """
    command = [sys.executable, "-m", "trieline", "model", model.path, "--dtype", model.dtype]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, timeout=PREPARE_MODEL_S
        )
    except subprocess.TimeoutExpired as error:
        msg = f"the model {model.path!r} was not there after {PREPARE_MODEL_S:g} s (see above)"
        raise ChildError(msg) from error
    if child.returncode != 0:
        msg = f"could not prepare the model {model.path!r} (see above)"
        raise ChildError(msg)
    prepared = json.loads(child.stdout)
    console.print(
        f"model: {prepared['folder']} in {prepared['dtype']}", highlight=False, markup=False, soft_wrap=True
    )
    return msgspec.structs.replace(model, dtype=prepared["dtype"])


def check_environments(config: Config) -> None:
    """Make and reset every environment once: a wrong id or a missing sandbox is said before the start.

    Raises:
        EnvironmentSetupError: an environment can't be made or hangs, or its sandbox can't be had.
    """
    for env_config in config.envs:
        first_task(env_config, env_config.episode.turn_timeout_s or config.actor.turn_timeout_s)


def watch_learner(
    config: Config, folder: RunFolder, supervisor: Supervisor, console: Console, stopping: threading.Event
) -> bool:
    """Show progress until the learner has ended. False: somebody asked to stop.

    Raises:
        ChildError: a program failed, or the learner could not write its last checkpoint.
    """
    tail = MetricsTail(folder.metrics)
    title = f"{config.run.name}  {config.model.path}"
    supervised = config.learner.objective.loss == "sft"
    with Progress(title, steps=config.learner.steps, console=console, supervised=supervised) as progress:
        while "learner" not in supervisor.check():
            for record in tail.read():
                progress.update(record)
            if stopping.is_set():
                progress.phase("stopping: the learner writes a checkpoint")
                supervisor.terminate("learner")
                if supervisor.wait("learner", STOP_LEARNER_S) is None:
                    msg = (
                        f"the learner was still busy {STOP_LEARNER_S:g} s after it was asked to stop and was "
                        f"killed: {folder.path} goes on from its last checkpoint with --resume"
                    )
                    raise ChildError(msg)
                supervisor.check()
                return False
            time.sleep(POLL_S)
        for record in tail.read():
            progress.update(record)
    return True


def _own_links(links: LinksConfig) -> LinksConfig:
    """Free loopback addresses in place of the default ones, so that two runs on one machine don't collide."""
    default = LinksConfig()
    free = {
        name: free_loopback_address() for name in ADDRESSES if getattr(links, name) == getattr(default, name)
    }
    return msgspec.structs.replace(links, **free)


def _still_free(links: LinksConfig, console: Console) -> LinksConfig:
    """A run that goes on has the addresses of its last start; others may have taken them since."""
    for name, address in links.addresses():
        if (reason := reason_against(address)) is not None:
            free = free_loopback_address()
            several = tuple(free if one == address else one for one in links.generate_addresses)
            one_of_several = name == "generate" and len(several) > 1
            links = msgspec.structs.replace(links, **{name: several if one_of_several else free})
            console.print(f"links.{name}: {free} now ({address}: {reason})", highlight=False, markup=False)
    return links


def set_on_signal(event: threading.Event) -> "signal._HANDLER":
    """A handler that asks to stop."""

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()

    return handle
