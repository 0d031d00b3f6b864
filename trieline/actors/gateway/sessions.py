"""All sessions of a gateway: who may ask, what is kept, and what is sent again.

Invariant: an exchange is in its session's log before its reply is told to anybody, and in the session once,
however often its request is sent. A request that comes again because nobody heard the reply is told the same
one; while it is still being made, it waits for that.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    OverloadedError,
    UnknownKeyError,
)
from trieline.actors.gateway.exchange import Closed, Event, Exchange, Opened, Rewarded, Seated
from trieline.actors.gateway.replier import Replier, SamplingLimits, length_up_to, with_call_ids
from trieline.actors.gateway.session import Session, reward_of
from trieline.actors.gateway.session_log import SessionLog
from trieline.common.seeds import derived_seed
from trieline.wire.tree import CAUSES, SCORED

log = logging.getLogger(__name__)

KEY_PREFIX = "tl-"
DIGEST_BYTES = 16

OnEnd = Callable[[Session], Awaitable[None]]
"""Told of a session that is over and has its rewards. Its log is forgotten when this returns."""


@dataclass(kw_only=True, slots=True)
class _Making:
    """A reply that is being made."""

    task: asyncio.Task[Exchange]
    waiting: int = 0
    """Connections on which somebody waits for it."""


@dataclass(kw_only=True, slots=True)
class _Live:
    """An open session, and what is no part of its record."""

    session: Session
    limits: SamplingLimits
    used_at: float
    making: dict[bytes, _Making] = field(default_factory=dict)
    unheard: dict[bytes, int] = field(default_factory=dict)
    """Requests of which nobody heard the reply, and their exchange."""
    ended_at: float | None = None


class Sessions:
    """Belongs to one event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        replier: Replier,
        limits: SamplingLimits,
        on_end: OnEnd,
        record: SessionLog | None = None,
        open_online: Callable[[str], Session] | None = None,
        seed: int = 0,
    ) -> None:
        """`limits` are those of sessions that are opened without.

        `record`: where sessions are kept until they are over; None: in memory alone.
        `open_online`: opens one for a key that nobody has opened; None: one of no task.
        """
        self._config = config
        self._replier = replier
        self._limits = limits
        self._on_end = on_end
        self._record = record
        self._open_online = open_online or (lambda key: self.open(key=key))
        self._seed = seed
        self._live: dict[str, _Live] = {}
        self._by_key: dict[str, str] = {}
        self._requests = 0
        self._ending: set[asyncio.Task[None]] = set()

    def recover(self) -> list[Session]:
        """Go on with the sessions of before. Returns them."""
        sessions = [] if self._record is None else [*self._record.sessions()]
        for session in sessions:
            live = self._add(session)
            followed = {child.parent for child in session.exchanges}
            live.unheard = {e.body: e.number for e in session.exchanges if e.number not in followed}
            if session.closed is not None:
                live.ended_at = time.monotonic()
                self._end_if_rewarded(live)
        return sessions

    def open(
        self,
        *,
        env_id: str = "",
        task_id: str = "",
        level: int = 0,
        metadata: Mapping[str, str] | None = None,
        key: str = "",
        limits: SamplingLimits | None = None,
    ) -> Session:
        """A new session. `key`: the one it is known by; "": a new one. `limits`: of its own, until a restart.

        Raises OverloadedError: there are too many.
        """
        if len(self._live) >= self._config.sessions:
            msg = f"expected at most {self._config.sessions} open sessions, got one more"
            raise OverloadedError(msg, retry_after_s=self._config.retry_after_s)
        opened = Opened(
            session_id=secrets.token_hex(8),
            key=key or KEY_PREFIX + secrets.token_urlsafe(24),
            env_id=env_id,
            task_id=task_id,
            level=level,
            metadata=dict(metadata or {}),
            unix_s=time.time(),
        )
        session = Session(opened=opened)
        self._write(session, opened)
        self._add(session, limits)
        return session

    def seat(self, session: Session, seated: Seated) -> None:
        """A learner's task is this session's from now on. It may be over, unless it was handed on."""
        self._apply(session, seated)

    def limit(self, session: Session, limits: SamplingLimits) -> None:
        """Of its own from now on, if it is not over."""
        if (live := self._live.get(session.opened.session_id)) is not None:
            live.limits = limits

    def of_key(self, key: str) -> Session:
        """The open session that a request is for. Raises UnknownKeyError."""
        session_id = self._by_key.get(key)
        if session_id is not None:
            return self._live[session_id].session
        if self._config.online and key and self._opens(key):
            return self._open_online(key)
        if not key:
            msg = "expected the key of a session (Authorization: Bearer, x-api-key, or in the path), got none"
        elif self._config.online:
            msg = "expected the key of an open session, or the gateway's admin_key, alone or as KEY/NAME"
        else:
            msg = "expected the key of an open session, got one that opens none"
        raise UnknownKeyError(msg)

    def _opens(self, key: str) -> bool:
        """Whether whoever brings it may begin a session: anybody, where there is no `admin_key`."""
        if not key.isprintable():
            return False  # bytes of a header that are no text, which no record takes
        wanted, size = self._config.admin_key, len(self._config.admin_key)
        same = hmac.compare_digest(key[:size].encode(), wanted.encode())
        return not wanted or (same and key[size : size + 1] in ("", "/"))

    def of_id(self, session_id: str) -> Session:
        """The session of this id, if it is not over. Raises NotFoundError."""
        live = self._live.get(session_id)
        if live is None:
            msg = f"expected the id of an open session, got {session_id[:80]!r}"
            raise NotFoundError(msg)
        return live.session

    async def reply(self, session: Session, asked: Asked, body: bytes) -> Replied:
        """The reply to a request, known again by `body`. If the caller is cancelled it is kept all the same.

        Raises:
            RefusedError: of this package's family, for every reason there can be.
        """
        live = self._live.get(session.opened.session_id)
        if live is None or session.closed is not None:
            msg = "expected an open session, got one that was closed meanwhile"
            raise ConflictError(msg)
        live.used_at = time.monotonic()
        digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
        making = live.making.get(digest)
        if making is None or making.waiting > 0:
            if (unheard := live.unheard.pop(digest, None)) is not None:
                return self._replied(live, session.exchanges[unheard], asked)
            making = self._begin(live, asked, digest)
        making.waiting += 1
        try:
            exchange = await asyncio.shield(making.task)
        except asyncio.CancelledError:
            # Nobody hears it on this connection, and perhaps on no other.
            making.task.add_done_callback(lambda _: _note_unheard(live, digest, making))
            raise
        finally:
            making.waiting -= 1
            live.used_at = time.monotonic()
        return self._replied(live, exchange, asked)

    def count_tokens(self, session: Session, asked: Asked) -> int:
        """Of the prompt that a request makes. Raises BadRequestError."""
        return len(self._replier.prompt(session.history, asked))

    def unheard(self, session: Session, replied: Replied, body: bytes) -> None:
        """The connection broke before all of a reply was sent."""
        live = self._live.get(session.opened.session_id)
        exchange = session.exchange_of(replied.request_id)
        if live is not None and exchange is not None:
            live.unheard[hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()] = exchange.number

    def reward(self, session: Session, value: object, *, request_id: str = "") -> None:
        """A reward came, for one reply or for the whole session. The session may be closed already.

        Raises:
            BadRequestError: it is no finite number, or for a reply of another session.
            ConflictError: the session is over, which it may be since the caller looked.
        """
        live = self._live.get(session.opened.session_id)
        if live is None:
            msg = "expected a session that is open or waits for a reward, got one that is over"
            raise ConflictError(msg)
        reward = _expect_reward(value)
        number = -1
        if request_id:
            exchange = session.exchange_of(request_id)
            if exchange is None:
                msg = f"request_id: expected a reply of this session, got {request_id[:80]!r}"
                raise BadRequestError(msg, param="request_id")
            number = exchange.number
        self._apply(session, Rewarded(reward=reward, exchange=number))
        self._end_if_rewarded(live)

    def close(self, session: Session, closed: Closed) -> None:
        """No more requests. Without a reward, and not broken, it waits for one.

        Raises ConflictError: it is closed. BadRequestError: the cause, or the reward, is none.
        """
        if session.closed is not None:
            msg = "expected an open session, got one that is closed"
            raise ConflictError(msg)
        if closed.cause not in (SCORED, *CAUSES):
            msg = f"cause: expected one of {list(CAUSES)}, got {closed.cause[:80]!r}"
            raise BadRequestError(msg, param="cause")
        if closed.reward is not None:
            _expect_reward(closed.reward)
        self._apply(session, closed)
        live = self._live[session.opened.session_id]
        self._by_key.pop(session.opened.key, None)
        live.ended_at = time.monotonic()
        self._end_if_rewarded(live)

    def sweep(self) -> None:
        """End what nobody has used, or rewarded, for too long. To be called now and then."""
        now = time.monotonic()
        for live in [*self._live.values()]:
            session = live.session
            if live.ended_at is not None:
                if now > live.ended_at + self._config.reward_timeout_s:
                    self._end(live)
            elif now > live.used_at + self._config.idle_timeout_s and not live.making:
                idle = f"no request for {self._config.idle_timeout_s:g} s"
                cause = SCORED if self._config.online else "timeout"
                self.close(session, Closed(cause=cause, reason=idle, terminated=False))

    def counts(self) -> dict[str, int]:
        """For people and monitors."""
        lives = self._live.values()
        return {
            "open_sessions": sum(live.ended_at is None for live in lives),
            "waiting_for_rewards": sum(live.ended_at is not None for live in lives),
            "requests": self._requests,
        }

    def forget(self, sessions: Sequence[Session]) -> None:
        """What came of them is safe elsewhere."""
        if self._record is not None:
            self._record.forget([session.opened.session_id for session in sessions])

    async def finish(self) -> None:
        """Wait for the ends that are under way; replies that are being made are given up."""
        making = [m.task for live in self._live.values() for m in live.making.values()]
        for task in making:
            task.cancel()
        await asyncio.gather(*making, *self._ending, return_exceptions=True)

    def _begin(self, live: _Live, asked: Asked, digest: bytes) -> _Making:
        session = live.session
        if len(session.exchanges) + len(live.making) >= live.limits.max_exchanges:
            msg = f"expected at most {live.limits.max_exchanges} replies in a session, got one more"
            raise ConflictError(msg)
        if self._requests >= self._config.requests:
            msg = f"expected at most {self._config.requests} requests at once, got one more"
            raise OverloadedError(msg, retry_after_s=self._config.retry_after_s)
        task = asyncio.create_task(self._make(live, asked, digest))
        task.add_done_callback(lambda made: made.cancelled() or made.exception())  # told where it is awaited
        making = live.making[digest] = _Making(task=task)
        return making

    async def _make(self, live: _Live, asked: Asked, digest: bytes) -> Exchange:
        session = live.session
        self._requests += 1
        request_id = secrets.token_hex(12)
        opened = session.opened
        try:
            made = await self._replier.reply(
                session.history,
                asked,
                live.limits,
                request_id=request_id,
                task=f"{opened.env_id}/{opened.task_id}" if opened.task_id else opened.session_id,
                seed=derived_seed(self._seed, opened.session_id, len(session.exchanges), digest.hex()),
                body=digest,
            )
            if session.closed is not None:
                msg = "expected an open session, got one that was closed before the reply was there"
                raise ConflictError(msg)
            exchange = msgspec.structs.replace(
                made, number=len(session.exchanges), reply=with_call_ids(made.reply, session.calls)
            )
            self._apply(session, exchange)
            return exchange
        finally:
            self._requests -= 1
            live.making = {key: m for key, m in live.making.items() if m.task is not asyncio.current_task()}

    def _replied(self, live: _Live, exchange: Exchange, asked: Asked) -> Replied:
        completion, history = exchange.completion, live.session.history
        reason = "tool_calls" if exchange.reply.tool_calls else completion.finish_reason
        cached = length_up_to(history, exchange.parent)
        return Replied(
            request_id=exchange.request_id,
            created=int(time.time()),
            model=asked.model,
            message=exchange.reply,
            finish_reason=reason,
            stop=completion.stop if completion.stop in asked.stop else "",
            prompt_tokens=cached + len(exchange.context),
            cached_tokens=cached,
            completion_tokens=len(completion.token_ids),
        )

    def _add(self, session: Session, limits: SamplingLimits | None = None) -> _Live:
        live = _Live(session=session, limits=limits or self._limits, used_at=time.monotonic())
        self._live[session.opened.session_id] = live
        if session.closed is None:
            self._by_key[session.opened.key] = session.opened.session_id
        return live

    def _apply(self, session: Session, event: Event) -> None:
        self._write(session, event)
        session.apply(event)

    def _write(self, session: Session, event: Event) -> None:
        if self._record is not None:
            self._record.append(session.opened.session_id, event)

    def _end_if_rewarded(self, live: _Live) -> None:
        closed = live.session.closed
        if closed is not None and (closed.cause != SCORED or live.session.rewards):
            self._end(live)

    def _end(self, live: _Live) -> None:
        session_id = live.session.opened.session_id
        if self._live.pop(session_id, None) is None:
            return
        self._by_key.pop(live.session.opened.key, None)
        task = asyncio.create_task(self._hand_over(live.session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _hand_over(self, session: Session) -> None:
        try:
            await self._on_end(session)
        except Exception:  # the record keeps it, and the next start tries again
            log.exception("session %s is over, and could not be handed on", session.opened.session_id)
            return
        self.forget([session])


def _expect_reward(value: object) -> float:
    """Raises BadRequestError."""
    if (reward := reward_of(value)) is None:
        msg = f"reward: expected a finite number of at most a million, got {str(value)[:80]!r}"
        raise BadRequestError(msg, param="reward")
    return reward


def _note_unheard(live: _Live, digest: bytes, making: _Making) -> None:
    task = making.task
    if not making.waiting and not task.cancelled() and task.exception() is None:
        live.unheard[digest] = task.result().number
