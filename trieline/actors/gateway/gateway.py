"""A gateway in this process: its sessions, and the server that agents reach them by."""

import logging
from collections.abc import Callable
from pathlib import Path

from trieline.actors.config import ActorConfig
from trieline.actors.errors import GatewaySetupError
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.replier import GatewayRenderer, Replier, SamplingLimits
from trieline.actors.gateway.server import GatewayServer
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_log import SessionLog
from trieline.actors.gateway.session_routes import Seat
from trieline.actors.gateway.sessions import OnEnd, Sessions
from trieline.actors.policy import Policy

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Gateway:
    """Belongs to one event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        renderer: GatewayRenderer,
        policy: Policy,
        limits: SamplingLimits,
        on_end: OnEnd,
        record: Path | None = None,
        seat: Seat | None = None,
        open_online: Callable[[str], Session] | None = None,
        seed: int = 0,
    ) -> None:
        """Arguments as of `Sessions` and `GatewayServer`; `record`: the folder of open sessions.

        Raises:
            GatewaySetupError: the address is open to others, and no key is set.
            GatewayRecordError: the record can't be made.
        """
        if config.host not in LOOPBACK and not config.admin_key:
            msg = f"expected gateway.admin_key with host = {config.host!r}, which others can reach, got none"
            raise GatewaySetupError(msg)
        self._config = config
        self.sessions = Sessions(
            config,
            replier=Replier(renderer=renderer, policy=policy),
            limits=limits,
            on_end=on_end,
            record=None if record is None else SessionLog(record),
            open_online=open_online,
            seed=seed,
        )
        self.server = GatewayServer(config, self.sessions, seat=seat)

    async def start(self, on_recovered: Callable[[list[Session]], None] = lambda sessions: None) -> None:
        """Go on with the sessions of before, and listen.

        `on_recovered`: told of them, before any that is over is handed on.

        Raises:
            GatewaySetupError: the address can't be had. GatewayRecordError: the record can't be read.
        """
        if sessions := self.sessions.recover():
            log.info("going on with %d sessions of before", len(sessions))
        on_recovered(sessions)
        try:
            await self.server.start()
        except OSError as error:
            msg = f"can't listen on {self._config.host}:{self._config.port}: {error.strerror or error}"
            raise GatewaySetupError(msg) from error
        log.info("serving agents at %s", self.server.url)

    async def close(self) -> None:
        """Stop listening; what is open stays in the record. Idempotent."""
        await self.server.close()
        await self.sessions.finish()


def limits_of(
    config: GatewayConfig, actor: ActorConfig, *, max_context: int, temperature: float | None = None
) -> SamplingLimits:
    """Those of a gateway. `max_context`: what the policy server takes, or the task allows, if it is less.

    `temperature`: of an assignment, in place of the actor's.
    """
    return SamplingLimits(
        max_tokens=config.max_tokens,
        max_context=min(max_context, config.max_context or max_context),
        temperature=actor.temperature if temperature is None else temperature,
        top_p=actor.top_p,
        top_k=actor.top_k,
        fixed=config.sampling == "run",
        timeout_s=actor.generate_timeout_s,
        max_exchanges=config.max_exchanges,
    )
