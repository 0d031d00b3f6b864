"""One training run on this machine: prepare, start the programs, watch, stop in order, write the report."""

import contextlib
import importlib.util
import json
import logging
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from trieline.common.file_lock import file_lock
from trieline.common.program_log import file_handler
from trieline.common.restarts import RestartPolicy
from trieline.common.signals import on_stop_signal
from trieline.config import Config, ConfigError
from trieline.launcher.environment_checks import check_environments
from trieline.launcher.progress import Progress, say
from trieline.launcher.run_folder import MetricsTail, RunFolder
from trieline.launcher.run_sockets import expect_free, run_sockets, with_free_addresses
from trieline.launcher.run_state import LAUNCHER_LOCK
from trieline.launcher.supervisor import PYTHON_OPTIONS, ChildError, ProcessSpec, Start, Supervisor
from trieline.launcher.task_lists import list_tasks, lists_by_env, write_listings
from trieline.launcher.trackers.follower import unsent
from trieline.launcher.trackers.tracker import expect_installed
from trieline.learner.settings import check_settings
from trieline.wire.addresses import is_elsewhere
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.wire.journal import expect_no_writer
from trieline.wire.model_folder import BUILTIN_PREFIX

if TYPE_CHECKING:
    from trieline.launcher.ray_cluster import RayCluster

log = logging.getLogger(__name__)

POLL_S = 0.25
# A download of tens of GB over a slow line; what hangs for longer is said to hang.
PREPARE_MODEL_S = 7200.0
# The learner finishes or abandons its step and writes a checkpoint before it goes.
STOP_LEARNER_S = 90.0
# Actors are told by the learner that training is over; the policy server has nothing to save.
STOP_OTHERS_S = 15.0
# Whoever looks at the run (`trieline status`) has its lock for a moment.
LOCK_S = 2.0
# One that is out of memory again and again may take minutes to get there each time.
LEARNER_RESTARTS = RestartPolicy(within_s=3600.0)


def run_training(config: Config, *, folder: RunFolder | None, resume: bool, on_ray: bool = False) -> int:
    """Run to the end, to a failure, or to Ctrl-C. Returns the exit status.

    `on_ray`: actors and policy servers run where a Ray cluster has room for them.

    Raises:
        AddressError: an address that the configuration names can't be bound.
        ChildError: a program failed in a way that ends the run.
        JournalError: the run in `folder` is still going.
        LearnerError: settings contradict each other or have no effect.
    """
    console = Console(stderr=False)
    check_settings(config.learner, config.envs)
    expect_installed(config.run.trackers)
    if folder is not None:
        expect_no_writer(folder.journal)
        links = with_free_addresses(config.links, partial(say, console))
        config = msgspec.structs.replace(config, links=links)
    else:
        RunFolder.expect_place(config)
        expect_free(config.links)
    config = with_absolute_paths(config)
    config = msgspec.structs.replace(config, model=prepare_model(config.model, console))
    if config.policy_server.backend != "own":
        backend, loss = config.policy_server.backend, config.learner.objective.loss
        say(console, f"policy server: {backend}, entropies are estimates; loss: {loss}")
    check_environments(config)
    listings = [] if config.learner.replay is not None else list_tasks(config)
    if config.learner.replay is None:
        check_settings(config.learner, config.envs, lists_by_env(listings))
    with (
        placed(on_ray) as cluster,
        run_sockets(config.links if cluster is None else cluster.links(config.links)) as links,
    ):
        config = msgspec.structs.replace(config, links=links)
        if folder is None:
            folder = RunFolder.create(config)
        else:
            folder.write(config)  # with the addresses of this start
        if listings:
            write_listings(folder.tasks, listings)
        say(console, f"run folder: {folder.path}")
        start = None if cluster is None else partial(cluster.start, config=config)
        specs = process_specs(config, folder, resume=resume, everywhere=cluster is not None)
        finished = supervise(config, folder, specs, console, start=start)
    if not finished:
        say(console, f"stopped. Go on with: trieline train --resume {shlex.quote(str(folder.path))}")
        return 130
    from trieline.launcher.report import write_report

    write_report(folder)
    say(console, folder.report.read_text(encoding="utf-8").split("<!-- details -->")[0])
    say(console, f"report: {folder.report}")
    return 0


def process_specs(
    config: Config, folder: RunFolder, *, resume: bool, everywhere: bool = False
) -> list[ProcessSpec]:
    """The programs of a run. Each reads the run's config and can be started by hand with these arguments.

    `everywhere`: those on other machines, too, since a cluster starts them.
    """
    base = ("--config", str(folder.config))
    # Else somebody else takes care of those on other machines.
    several = sum(everywhere or not is_elsewhere(address) for address in config.links.generate_addresses)
    servers = [
        ProcessSpec(
            name=name,
            arguments=("policy-server", *base, "--engine-log", str(folder.log(f"{name}-engine"))),
            log_file=folder.log(name),
            restart="always",
        )
        for name in (["policy-server"] if several == 1 else [f"policy-server-{i}" for i in range(several)])
    ]
    actors = [
        ProcessSpec(
            name=f"actor-{i}",
            arguments=("actor", *base),
            log_file=folder.log(f"actor-{i}"),
            restart="always",
        )
        for i in range(config.run.actors)
    ]
    return [*servers, learner_spec(folder, resume=resume), *actors, *tracker_specs(config, folder)]


def learner_spec(folder: RunFolder, *, resume: bool) -> ProcessSpec:
    """The learner of a run, which goes on from its last checkpoint if a signal kills it."""
    resumed = ("--resume",) if resume else ()
    return ProcessSpec(
        name="learner",
        arguments=("learner", "--config", str(folder.config), "--run", str(folder.path), *resumed),
        log_file=folder.log("learner"),
        restart="after a signal",
        restart_arguments=() if resume else ("--resume",),
        restarts=LEARNER_RESTARTS,
    )


def tracker_specs(config: Config, folder: RunFolder) -> list[ProcessSpec]:
    """What sends the run's figures elsewhere. None of it is needed to train."""
    return [
        ProcessSpec(
            name=f"tracker-{name}",
            arguments=("track", str(folder.path), "--to", name, "--follow"),
            log_file=folder.log(f"tracker-{name}"),
            restart="always",
            essential=False,
        )
        for name in config.run.trackers
    ]


def prepare_model(model: ModelConfig, console: Console, *, device: str = "cpu") -> ModelConfig:
    """Fetch or build the model once, in a child, since that takes torch and the launcher has none.

    `device`: `auto`, `cpu` or `cuda`, on which its precision is to be fast.

    Returns:
        The model with its precision decided, so that the run's config says it, and a resumed run on another
        machine goes on in it.

    Raises:
        ChildError: the model can't be had; the message is the child's.
    """
    asked = [model.path, "--dtype", model.dtype, "--device", device]
    command = [sys.executable, *PYTHON_OPTIONS, "-m", "trieline", "model", *asked]
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
    say(console, f"model: {prepared['folder']} in {prepared['dtype']}")
    return msgspec.structs.replace(model, dtype=prepared["dtype"])


@contextlib.contextmanager
def placed(on_ray: bool) -> "Iterator[RayCluster | None]":
    """Inside the block, the cluster that says where programs run; None: all run here.

    Raises:
        ConfigError: Ray is not installed, or no cluster is there.
    """
    if not on_ray:
        yield None
        return
    if importlib.util.find_spec("ray") is None:
        msg = "--on ray: ray is not installed: pip install 'trieline[ray]'"
        raise ConfigError(msg)
    from trieline.launcher.ray_cluster import RayCluster

    with contextlib.closing(RayCluster()) as cluster:
        yield cluster


def links_on(links: LinksConfig, cluster: "RayCluster | None") -> LinksConfig:
    """Those by which all programs of a start reach each other, wherever they run."""
    return links if cluster is None else cluster.links(links)


def supervise(
    config: Config,
    folder: RunFolder,
    specs: Sequence[ProcessSpec],
    console: Console,
    *,
    start: Start | None = None,
) -> bool:
    """Run the programs of a run until its learner has ended. False: somebody asked to stop.

    Raises:
        ChildError: as `watch_learner`.
    """
    stopping = threading.Event()
    supervisor = Supervisor(specs, start=start)
    lock = file_lock(folder.path / LAUNCHER_LOCK, what="to run it", timeout_s=LOCK_S)
    root, own_log = logging.getLogger(), file_handler(folder.log("launcher"))
    root.addHandler(own_log)
    try:
        with lock, on_stop_signal(lambda name: stopping.set()):
            try:
                # The start stands inside the `try`, so that what did start is stopped when the rest does not.
                supervisor.start()
                return watch_learner(config, folder, supervisor, console, stopping)
            except ChildError:
                if not stopping.is_set():
                    # What the learner has come to is kept, whoever failed.
                    supervisor.terminate("learner")
                    supervisor.wait("learner", STOP_LEARNER_S)
                raise
            finally:
                supervisor.close(STOP_OTHERS_S)
                say_unsent(config, folder, console)
    finally:
        root.removeHandler(own_log)
        own_log.close()


def say_unsent(config: Config, folder: RunFolder, console: Console) -> None:
    """What trackers lack of the run, and how they get it."""
    for name in config.run.trackers:
        if count := unsent(folder, name):
            log_file = folder.log(f"tracker-{name}")
            command = shlex.join(["trieline", "track", str(folder.path), "--to", name])
            say(console, f"{name} lacks {count} records (log: {log_file}). Send them with: {command}")


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


def with_absolute_paths(config: Config) -> Config:
    """Paths that are meant from where the command was given mean the same when the run goes on elsewhere."""
    learner, model, run = config.learner, config.model, config.run
    if learner.replay is not None:
        learner = msgspec.structs.replace(learner, replay=str(Path(learner.replay).absolute()))
    if not model.path.startswith(BUILTIN_PREFIX) and (local := Path(model.path).expanduser()).is_dir():
        model = msgspec.structs.replace(model, path=str(local.resolve()))
    run = msgspec.structs.replace(run, folder=str(Path(run.folder).absolute()))
    links = config.links
    if links.keys and not links.keys.startswith("~"):
        links = msgspec.structs.replace(links, keys=str(Path(links.keys).absolute()))
    return msgspec.structs.replace(config, learner=learner, model=model, run=run, links=links)
