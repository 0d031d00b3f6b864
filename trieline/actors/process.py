"""The actor program: a parent that forks workers, collects their logs, and replaces those that die.

The parent opens no socket and runs no event loop, so that forking it is safe; what it has read (tokenizer,
chat template, environment modules) the workers share.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import multiprocessing_logging

from trieline.actors.actor import EXIT_STOPPED, run_worker
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import check_env
from trieline.actors.gateway.config import GatewayConfig
from trieline.common.program_log import file_handler
from trieline.common.restarts import Deaths
from trieline.common.signals import default_stop_signals, on_stop_signal, stop_signals_held
from trieline.envs.sandbox.exit_cleanup import close_all
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.gate import check_peer

log = logging.getLogger(__name__)

EXIT_GAVE_UP = 1
POLL_S = 0.25
# Beyond its own limits (flush, environments' close) a worker gets this long before it is killed.
STOP_S = 20.0


def run_actor(
    config: ActorConfig,
    *,
    model_folder: Path,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    log_file: Path | None,
    gateway: GatewayConfig | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> int:
    """Run the actor program to its end. Call it from the main thread of a process without an event loop.

    Returns the exit status: 0 after the learner's stop or a signal, 1 when workers died again and again.

    Raises:
        ChatTemplateError, EnvironmentSetupError, AddressError: the configuration can't be played; nothing was
            started.
    """
    renderer = ChatRenderer(model_folder, system_prompt=config.system_prompt, template_kwargs=template_kwargs)
    for env in envs:
        check_env(env)
    earlier = (config.earlier_policy,) if config.earlier_policy else ()
    for address in (links.trajectories, *links.generate_addresses, *earlier):
        check_peer(address, links.keys)
    with _shared_log(log_file):
        workers = Workers(config, renderer=renderer, envs=envs, links=links, gateway=gateway)
        with on_stop_signal(lambda name: workers.request_stop()):
            return workers.run()


@dataclass(slots=True)
class _Seat:
    """One worker's place: who sits there now, and how often its holders died."""

    number: int
    process: ForkProcess | None = None
    deaths: Deaths = field(default_factory=Deaths)
    start_at: float = 0.0
    stopped: bool = False


class Workers:
    """The forked workers of one actor program."""

    def __init__(
        self,
        config: ActorConfig,
        *,
        renderer: ChatRenderer,
        envs: Sequence[EnvConfig],
        links: LinksConfig,
        gateway: GatewayConfig | None = None,
    ) -> None:
        self._config = config
        self._renderer = renderer
        self._envs = envs
        self._links = links
        self._gateway = gateway
        self._seats = [_Seat(number) for number in range(config.processes)]
        self._stop_requests = 0
        self._stop_at = math.inf
        self._terminated_at: float | None = None
        self._status = 0

    def request_stop(self) -> None:
        """Stop the workers cleanly; the second time, kill them. Safe in a signal handler."""
        self._stop_requests += 1

    def run(self) -> int:
        """Keep the seats taken until all workers have stopped. Returns the exit status."""
        try:
            while not all(seat.stopped for seat in self._seats):
                self._fill_seats()
                wait([s.process.sentinel for s in self._seats if s.process is not None], timeout=POLL_S)
                self._collect()
                self._enforce_stop()
        finally:
            self._kill()
        return self._status

    def _fill_seats(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.process is None and not seat.stopped and now >= seat.start_at:
                if self._stop_requests or self._stop_at < math.inf:
                    seat.stopped = True
                else:
                    seat.process = self._fork(seat.number)

    def _fork(self, number: int) -> ForkProcess:
        # Not daemonic: environments may have processes of their own.
        process = multiprocessing.get_context("fork").Process(
            target=self._in_worker, args=(os.getpid(),), name=f"actor-worker-{number}"
        )
        # A signal that comes between the fork and the worker's own handlers must not be lost in the parent's.
        with stop_signals_held():
            process.start()
        return process

    def _in_worker(self, parent_pid: int) -> None:
        default_stop_signals()
        try:
            status = run_worker(
                self._config,
                renderer=self._renderer,
                envs=self._envs,
                links=self._links,
                gateway=self._gateway,
                parent_pid=parent_pid,
            )
        except Exception:
            log.exception("worker failed")
            status = EXIT_GAVE_UP
        if os.getppid() != parent_pid:
            # Nobody reads the log queue any more, and leaving the usual way would wait for that.
            close_all()
            os._exit(status)
        raise SystemExit(status)

    def _collect(self) -> None:
        for seat in self._seats:
            process = seat.process
            if process is None or process.is_alive():
                continue
            process.join()
            seat.process = None
            if process.exitcode == EXIT_STOPPED or self._stop_requests:
                seat.stopped = True
                # The learner says stop to all; one that did not hear it would wait for its return for ever.
                self._stop_at = min(self._stop_at, time.monotonic() + self._links.peer_timeout_s)
            else:
                self._note_death(seat, process)

    def _note_death(self, seat: _Seat, process: ForkProcess) -> None:
        now = time.monotonic()
        pause = seat.deaths.note(now)
        if pause is None:
            log.error(
                "worker %d died %d times within %g s, the last time with status %s: giving up",
                seat.number,
                len(seat.deaths.times),
                seat.deaths.policy.within_s,
                process.exitcode,
            )
            seat.stopped = True
            self._status = EXIT_GAVE_UP
            self.request_stop()
            return
        seat.start_at = now + pause
        log.warning(
            "worker %d (pid %s) ended with status %s; another starts in %.2g s",
            seat.number,
            process.pid,
            process.exitcode,
            pause,
        )

    def _enforce_stop(self) -> None:
        now = time.monotonic()
        if self._terminated_at is None and (self._stop_requests or now > self._stop_at):
            self._terminate()
            self._terminated_at = now
        if self._stop_requests > 1 or (
            self._terminated_at is not None and now > self._terminated_at + STOP_S
        ):
            late = [seat.number for seat in self._seats if seat.process is not None]
            if late:
                log.warning("workers %s did not stop within %g s: killed", late, STOP_S)
            self._kill()

    def _terminate(self) -> None:
        for seat in self._seats:
            if seat.process is not None:
                seat.process.terminate()

    def _kill(self) -> None:
        for seat in self._seats:
            if seat.process is not None:
                seat.process.kill()
                seat.process.join()
                seat.process = None
            seat.stopped = True


@contextlib.contextmanager
def _shared_log(log_file: Path | None) -> Iterator[None]:
    """All workers log through the parent's handlers, `log_file` among them."""
    root = logging.getLogger()
    own: logging.Handler | None = None
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        own = file_handler(log_file)
        root.addHandler(own)
        if root.getEffectiveLevel() > logging.INFO:
            root.setLevel(logging.INFO)
    multiprocessing_logging.install_mp_handler()
    try:
        yield
    finally:
        _drain_log(root)
        if own is not None:
            root.removeHandler(own)
            own.close()


def _drain_log(root: logging.Logger) -> None:
    """Write what workers logged last, and put the handlers back as they were."""
    shared = [h for h in root.handlers if isinstance(h, multiprocessing_logging.MultiProcessingHandler)]
    multiprocessing_logging.uninstall_mp_handler()
    for handler in shared:
        handler.close()
