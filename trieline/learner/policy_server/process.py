"""The policy server's process: sockets on one side, the engine on the other, one loop over both."""

import logging
import os
import signal
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import torch

from trieline.common.file_lock import reading
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.decoder import load_decoder
from trieline.learner.policy_server.cpu.engine import Engine
from trieline.learner.policy_server.cpu.sequence import Ticket
from trieline.learner.policy_server.cpu.weights_file import expected_shapes, read_weights
from trieline.learner.policy_server.errors import InvalidRequestError, OverloadedError, WeightsError
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.wire.generate_link import GenerateServer
from trieline.wire.messages import GenerateRefusal, GenerateRequest, ServerStatus, StatusRequest
from trieline.wire.weights_link import WeightsSubscriber

log = logging.getLogger(__name__)

RefusalKind = Literal["invalid", "overloaded", "stopping", "failed"]

# How long an idle server sleeps on its socket: the delay of new weights and of a signal.
IDLE_POLL_S = 0.05
MAX_REASON = 4000


def run_policy_server(
    config: PolicyServerConfig,
    *,
    model: ModelConfig,
    links: LinksConfig,
    weights: Path | None = None,
    policy_version: int = 0,
) -> int:
    """Serve until SIGTERM or SIGINT (0), or until too many steps in a row have failed (1).

    `weights`: a safetensors file that replaces the weights in the model's folder, being `policy_version`.

    Raises:
        LearnerError, WireError: the model, the weights or an address can't be used.
    """
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    with ExitStack() as resources:
        stop = resources.enter_context(_stop_signals())
        # Bound before the model is loaded: an address in use is told at once, and early requests wait.
        sockets = GenerateServer(links)
        resources.callback(sockets.close)
        sockets.bind()
        folder = prepare_model(model.path)
        engine = Engine(
            load_decoder(folder, choose_dtype(model.dtype)), config, policy_version=policy_version
        )
        expected = expected_shapes(folder)
        if weights is not None:
            engine.load(read_weights(weights, expected), policy_version)
        engine.warm_up()
        fetch_folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="trieline-weights-"))
        server_id = f"policy-server-{os.getpid()}"
        subscriber = WeightsSubscriber(links, server_id=server_id, fetch_folder=Path(fetch_folder))
        resources.callback(subscriber.close)
        subscriber.start()
        log.info("serving version %d at %s in %s", policy_version, links.generate, engine.decoder.dtype)
        return PolicyServer(config, engine, sockets, subscriber, expected).serve(stop)


class StopFlag:
    """Set by a signal."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = signal.Signals(number).name


@contextmanager
def _stop_signals() -> Iterator[StopFlag]:
    flag = StopFlag()
    before = {number: signal.signal(number, flag) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PolicyServer:
    """The loop. Every request gets exactly one reply: a completion, a status or a refusal."""

    def __init__(
        self,
        config: PolicyServerConfig,
        engine: Engine,
        sockets: GenerateServer,
        subscriber: WeightsSubscriber,
        expected: dict[str, torch.Size],
    ) -> None:
        self._config = config
        self._engine = engine
        self._sockets = sockets
        self._subscriber = subscriber
        self._expected = expected
        self._failures = 0

    def serve(self, stop: StopFlag) -> int:
        """The exit status."""
        while not stop.reason:
            self._receive(0.0 if self._engine.busy else IDLE_POLL_S)
            self._swap_weights()
            self._step()
            if self._failures >= self._config.max_failures:
                log.critical(
                    "giving up: %d steps failed and none of their requests was answered", self._failures
                )
                return 1
        log.info("stopping on %s", stop.reason)
        self._refuse_all("stopping", f"the policy server stops on {stop.reason}")
        self._refuse_late()
        return 0

    def _receive(self, timeout_s: float) -> None:
        for peer, message in self._sockets.poll(timeout_s):
            if isinstance(message, StatusRequest):
                self._sockets.reply(peer, self._status(message.request_id))
            else:
                self._submit(peer, message)

    def _submit(self, peer: bytes, request: GenerateRequest) -> None:
        try:
            self._engine.submit(peer, request)
        except InvalidRequestError as error:
            self._refuse((peer, request.request_id), "invalid", str(error))
        except OverloadedError as error:
            self._refuse((peer, request.request_id), "overloaded", str(error))

    def _step(self) -> None:
        try:
            finished = self._engine.step()
        except Exception as error:
            self._failures += 1
            log.exception("step failed (failure %d of %d)", self._failures, self._config.max_failures)
            self._refuse_all("failed", f"{type(error).__name__}: {error}")
            return
        if finished:
            self._failures = 0
        for answer in finished:
            self._sockets.reply(answer.ticket[0], answer.completion)

    def _swap_weights(self) -> None:
        announced = self._subscriber.poll()
        if announced is None:
            return
        version, path = announced
        began = time.perf_counter()
        try:
            with reading(path):
                self._engine.load(read_weights(path, self._expected), version)
        except (WeightsError, OSError):
            log.exception(
                "weights of version %d refused, still serving %d", version, self._engine.policy_version
            )
            return
        seconds = time.perf_counter() - began
        self._subscriber.report_loaded(version, seconds)
        log.info("serving version %d (loaded in %.3f s)", version, seconds)

    def _status(self, request_id: int) -> ServerStatus:
        engine = self._engine
        return ServerStatus(
            request_id=request_id,
            policy_version=engine.policy_version,
            running=engine.running,
            waiting=engine.waiting,
            vocab_size=engine.decoder.vocab_size,
            max_context=engine.max_context,
            tokens_generated=engine.counters.generated,
            dtype=str(engine.decoder.dtype).removeprefix("torch."),
        )

    def _refuse_all(self, kind: RefusalKind, reason: str) -> None:
        for ticket in self._engine.drop_all():
            self._refuse(ticket, kind, reason)

    def _refuse_late(self) -> None:
        """Refuse what is on its way already, for as long as more keeps coming."""
        deadline = time.monotonic() + self._config.stop_grace_s
        while time.monotonic() < deadline and (late := self._sockets.poll(0.0)):
            for peer, message in late:
                self._refuse((peer, message.request_id), "stopping", "the policy server stops")

    def _refuse(self, ticket: Ticket, kind: RefusalKind, reason: str) -> None:
        peer, request_id = ticket
        refusal = GenerateRefusal(request_id=request_id, kind=kind, reason=reason[:MAX_REASON])
        self._sockets.reply(peer, refusal)
