"""A gateway that listens, over a policy that says what it is told, in the event loop of a test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.actors.chat_folder import write_chat_folder
from tests.actors.gateway.desk import LIMITS, QueuedPolicy
from trieline.actors.chat import ChatRenderer
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.gateway import Gateway
from trieline.actors.gateway.session import Session


@dataclass(kw_only=True, slots=True)
class Served:
    """What a test has of it."""

    gateway: Gateway
    policy: QueuedPolicy
    ended: list[Session]

    @property
    def url(self) -> str:
        return self.gateway.server.url


@asynccontextmanager
async def served(
    folder: Path,
    *,
    replies: Sequence[str] = (),
    config: GatewayConfig | None = None,
    record: bool = False,
    on_end: Callable[[Session], Coroutine[Any, Any, None]] | None = None,
) -> AsyncIterator[Served]:
    model = folder / "model"
    if not model.exists():
        write_chat_folder(model)
    renderer = ChatRenderer(model, system_prompt="")
    policy = QueuedPolicy(renderer, replies)
    ended: list[Session] = []

    async def note(session: Session) -> None:
        ended.append(session)

    gateway = Gateway(
        config or GatewayConfig(port=0),
        renderer=renderer,
        policy=policy,
        limits=LIMITS,
        on_end=on_end or note,
        record=folder / "sessions" if record else None,
    )
    await gateway.start()
    try:
        yield Served(gateway=gateway, policy=policy, ended=ended)
    finally:
        await gateway.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await coroutine

    asyncio.run(bounded())
