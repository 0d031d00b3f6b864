"""The two processes that an actor talks to, played by threads on real sockets."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.actors.scripted_policy import VERSION, Script, completion
from trieline.actors.chat import ChatRenderer
from trieline.wire.config import LinksConfig
from trieline.wire.generate_link import GenerateServer
from trieline.wire.messages import Assignment, GenerateRequest, ServerStatus, StatusRequest, TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver


def ipc_links(folder: Path, *, peer_timeout_s: float = 30.0) -> LinksConfig:
    """Sockets in `folder`, whose path must be short."""
    return LinksConfig(
        trajectories=f"ipc://{folder}/trajectories",
        generate=f"ipc://{folder}/generate",
        weights_fetch=f"ipc://{folder}/fetch",
        heartbeat_s=0.2,
        peer_timeout_s=peer_timeout_s,
    )


class ScriptedServer:
    """A policy server that says what a script tells it."""

    def __init__(self, links: LinksConfig, renderer: ChatRenderer, script: Script) -> None:
        self._server = GenerateServer(links)
        self._renderer = renderer
        self._script = script
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-server", daemon=True)
        self.requests = 0

    def __enter__(self) -> Self:
        self._server.bind()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for peer, request in self._server.poll(0.05):
                if isinstance(request, StatusRequest):
                    self._server.reply(peer, self._status(request.request_id))
                if not isinstance(request, GenerateRequest):
                    continue
                self.requests += 1
                text = self._script(self._renderer.decode(request.prompt), request.sampling)
                tokens = self._renderer.reply_tokens(text)[: request.sampling.max_tokens]
                self._server.reply(peer, completion(tokens, request_id=request.request_id))

    def _status(self, request_id: int) -> ServerStatus:
        return ServerStatus(
            request_id=request_id,
            policy_version=VERSION,
            running=0,
            waiting=0,
            vocab_size=self._renderer.vocab_size,
            max_context=2048,
            tokens_generated=0,
            dtype="float32",
        )


class Learner:
    """Hands out tasks and keeps the trees."""

    def __init__(self, links: LinksConfig, *, run_id: str = "run") -> None:
        self.journal: list[TreeDelivery] = []
        self.receiver = TreeReceiver(links, accept=self._accept, run_id=run_id)

    def __enter__(self) -> Self:
        self.receiver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.receiver.close()

    def offer(self, env_id: str, count: int, *, first: int = 0, group_size: int = 3) -> None:
        self.receiver.offer(
            Assignment(assignment_id=i, env_id=env_id, seed=i, group_size=group_size)
            for i in range(first, first + count)
        )

    def _accept(self, delivery: TreeDelivery, frames: object) -> None:
        self.journal.append(delivery)

    def take(self, count: int, *, timeout_s: float = 20.0) -> list[TreeDelivery]:
        return [self.receiver.get(timeout_s) for _ in range(count)]
