"""The policy server's process: sockets on one side, an engine on the other, one loop over both."""

import logging
import time
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trieline.common.owned_folder import new_folder
from trieline.common.process_name import new_process_name
from trieline.common.signals import on_stop_signal
from trieline.learner.errors import CheckpointError
from trieline.learner.policy_server.choose_engine import load_engine
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.engine import Engine, EnginePlace, Ticket
from trieline.learner.policy_server.errors import (
    EngineError,
    EngineGoneError,
    InvalidRequestError,
    OverloadedError,
)
from trieline.learner.policy_server.waiting import WaitingRequests
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.wire.gate import check_peer
from trieline.wire.generate_link import GenerateServer
from trieline.wire.messages import Cancel, GenerateRefusal, GenerateRequest, ServerStatus, StatusRequest
from trieline.wire.weights_link import WeightsSubscriber

log = logging.getLogger(__name__)

RefusalKind = Literal["invalid", "overloaded", "stopping", "failed"]

# Begins the names of folders for fetched weights: the servers of one machine find each other's by it.
FETCHED = "trieline-weights-"
# How long an idle server sleeps on its socket: the delay of new weights and of a signal.
IDLE_POLL_S = 0.05
# Pause before an engine that did not take new weights is given them again.
RETRY_S = 1.0
# Requests that wait in the engine itself, in rows: enough to fill them all at once, and to find prompts that
# several of them share.
ROWS_AHEAD = 2
MAX_REASON = 4000


def run_policy_server(
    config: PolicyServerConfig, *, model: ModelConfig, links: LinksConfig, engine_log: Path | None = None
) -> int:
    """Serve until SIGTERM or SIGINT (0), or until too many steps in a row failed, or the engine ended (1).

    `engine_log`: of an engine of others that is started here; None: it prints where this process does.

    Raises:
        LearnerError, WireError: the model or an address can't be used.
    """
    with ExitStack() as resources:
        stop = StopFlag()
        resources.enter_context(on_stop_signal(stop))
        check_peer(links.weights_fetch, links.keys)
        # Bound before the model is loaded: an address in use is told at once, and early requests wait.
        sockets = GenerateServer(links)
        resources.callback(sockets.close)
        sockets.bind()
        number = links.generate_addresses.index(sockets.address)
        place = EnginePlace(number=number, log_file=engine_log, gives_up=lambda: stop.reason)
        try:
            engine = load_engine(config, model, place=place)
        except EngineError:
            if stop.reason:
                log.info("stopping on %s, before the engine was up", stop.reason)
                return 0
            raise
        resources.callback(engine.close)
        fetched = new_folder(FETCHED)
        resources.callback(fetched.close)
        subscriber = WeightsSubscriber(
            links, server_id=new_process_name(), fetch_folder=fetched.path, neighbours=f"{FETCHED}*"
        )
        resources.callback(subscriber.close)
        subscriber.start()
        log.info("ready at %s with version %d in %s", sockets.address, engine.policy_version, engine.dtype)
        return PolicyServer(config, engine, sockets, subscriber).serve(stop)


class StopFlag:
    """Why to stop; "": go on."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self, reason: str) -> None:
        self.reason = reason


@dataclass(slots=True)
class _Loading:
    """Weights that the engine is given."""

    version: int
    path: Path
    began: float = field(default_factory=time.perf_counter)
    coming: "Future[None] | None" = None
    """Of an engine that takes them in while the loop goes on."""


class PolicyServer:
    """The loop. Every request gets exactly one reply, a completion, a status or a refusal, or is cancelled.

    Nothing is sampled before the first weights of the learner are here: those that the server started with
    may be many steps old. Where there is no learner, they are served.
    """

    def __init__(
        self,
        config: PolicyServerConfig,
        engine: Engine,
        sockets: GenerateServer,
        subscriber: WeightsSubscriber,
    ) -> None:
        self._config = config
        self._engine = engine
        self._sockets = sockets
        self._subscriber = subscriber
        self._waiting = WaitingRequests(config.max_waiting)
        self._began = False
        self._failures = 0
        self._newest: tuple[int, Path] | None = None
        """Weights that the engine is yet to be given, or did not take."""
        self._due_at = 0.0
        self._loading: _Loading | None = None
        self._holds_back = False
        """No request begins: new weights wait for those that run, or are on their way."""

    def serve(self, stop: StopFlag) -> int:
        """The exit status."""
        while not stop.reason:
            self._receive(0.0 if self._began and self._busy() else IDLE_POLL_S)
            self._swap_weights()
            if not self._may_begin():
                continue
            self._feed()
            try:
                self._step()
            except EngineGoneError as error:
                log.critical("giving up: %s", error)
                self._refuse_all("failed", "the engine of the policy server has ended")
                return 1
            if self._failures >= self._config.max_failures:
                log.critical(
                    "giving up: %d steps failed and none of their requests was answered", self._failures
                )
                self._refuse_all("failed", "the policy server gives up")
                return 1
        log.info("stopping on %s", stop.reason)
        self._refuse_all("stopping", f"the policy server stops on {stop.reason}")
        self._refuse_late()
        return 0

    def _busy(self) -> bool:
        in_front = 0 if self._holds_back else len(self._waiting)
        return in_front + self._engine.waiting + self._engine.running > 0

    def _may_begin(self) -> bool:
        if not self._began and self._subscriber.is_alone():
            log.info("no learner is there: serving version %d", self._engine.policy_version)
            self._began = True
        return self._began

    def _receive(self, timeout_s: float) -> None:
        for peer, message in self._sockets.poll(timeout_s):
            match message:
                case GenerateRequest():
                    self._take_in(peer, message)
                case Cancel():
                    ticket = (peer, message.request_id)
                    if not self._waiting.cancel(ticket):
                        self._engine.cancel(ticket)
                case StatusRequest():
                    self._sockets.reply(peer, self._status(message.request_id))

    def _take_in(self, peer: bytes, request: GenerateRequest) -> None:
        try:
            self._engine.check(request)
            displaced = self._waiting.add(peer, request)
        except InvalidRequestError as error:
            self._refuse((peer, request.request_id), "invalid", str(error))
        except OverloadedError as error:
            self._refuse((peer, request.request_id), "overloaded", str(error))
        else:
            if displaced is not None:
                self._refuse(displaced, "overloaded", "others who asked for less come first")

    def _feed(self) -> None:
        ahead = 0 if self._holds_back else ROWS_AHEAD * self._config.max_rows
        while self._waiting and self._engine.waiting < ahead:
            self._engine.submit(*self._waiting.take())

    def _step(self) -> None:
        try:
            finished = self._engine.step()
        except EngineGoneError:
            raise
        except Exception as error:
            self._failures += 1
            log.exception("step failed (failure %d of %d)", self._failures, self._config.max_failures)
            for ticket in self._engine.drain():
                self._refuse(ticket, "failed", f"{type(error).__name__}: {error}")
            return
        if finished:
            self._failures = 0
        for refused in self._engine.take_refused():
            self._refuse(refused.ticket, refused.kind, refused.reason)
        for answer in finished:
            self._sockets.reply(answer.ticket[0], answer.completion)

    def _swap_weights(self) -> None:
        """Give the engine the newest weights, or see whether it has them by now: nothing waits for it.

        Without updates in flight they wait until nothing runs, and nothing begins before they are in.
        """
        if (announced := self._subscriber.poll()) is not None:
            self._newest, self._due_at = announced, 0.0
        at_once = self._config.in_flight_updates
        if self._loading is None and (due := self._due()) and (at_once or not self._engine.running):
            self._loading, self._newest = _Loading(*due), None
        if self._loading is not None and self._load(self._loading):
            self._loading = None
        self._holds_back = not at_once and (self._loading or self._due()) is not None
        self._engine.admits = not self._holds_back

    def _due(self) -> tuple[int, Path] | None:
        return self._newest if time.monotonic() >= self._due_at else None

    def _load(self, loading: _Loading) -> bool:
        """False: they are on their way."""
        version, path = loading.version, loading.path
        try:
            if loading.coming is None:
                loading.coming = self._engine.load(path, version)
            if loading.coming is not None:
                if not loading.coming.done():
                    return False
                loading.coming.result()
        except EngineError as error:
            log.error("weights of version %d were not taken, another try follows: %s", version, error)
            if self._newest is None:
                self._newest, self._due_at = (version, path), time.monotonic() + RETRY_S
            return True
        except (CheckpointError, OSError) as error:
            log.error(
                "weights of version %d refused, those of %d stay: %s",
                version,
                self._engine.policy_version,
                error,
            )
            return True
        self._began = True
        seconds = time.perf_counter() - loading.began
        self._subscriber.report_loaded(version, seconds)
        log.info("serving version %d (loaded in %.3f s)", version, seconds)
        return True

    def _status(self, request_id: int) -> ServerStatus:
        engine = self._engine
        return ServerStatus(
            request_id=request_id,
            policy_version=engine.policy_version,
            running=engine.running,
            waiting=len(self._waiting) + engine.waiting,
            vocab_size=engine.vocab_size,
            max_context=engine.max_context,
            tokens_generated=engine.tokens_generated,
            dtype=engine.dtype,
            engine=engine.name,
            entropies=engine.entropies,
        )

    def _refuse_all(self, kind: RefusalKind, reason: str) -> None:
        for ticket in (*self._engine.drain(), *self._waiting.drain()):
            self._refuse(ticket, kind, reason)

    def _refuse_late(self) -> None:
        """Refuse what is on its way already, for as long as more keeps coming."""
        deadline = time.monotonic() + self._config.stop_grace_s
        while time.monotonic() < deadline and (late := self._sockets.poll(0.0)):
            for peer, message in late:
                if not isinstance(message, Cancel):
                    self._refuse((peer, message.request_id), "stopping", "the policy server stops")

    def _refuse(self, ticket: Ticket, kind: RefusalKind, reason: str) -> None:
        peer, request_id = ticket
        refusal = GenerateRefusal(request_id=request_id, kind=kind, reason=reason[:MAX_REASON])
        self._sockets.reply(peer, refusal)
