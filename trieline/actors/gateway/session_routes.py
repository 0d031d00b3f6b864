"""Sessions over HTTP: opened, looked at, rewarded and closed by whoever owns the task; and acted in.

POST /sessions                     open one: {"env_id", "task_id", "level", "metadata"}, all optional
GET  /sessions/ID                  what came so far
POST /sessions/ID/rewards          {"reward", "request_id"}: for one reply, or for the session
POST /sessions/ID/close            {"reward", "terminated", "score"}, or {"cause", "reason"}: broken
GET  /s/KEY/task                   the task of the session's environment, if it has one
POST /s/KEY/step                   {"action"}: act in it
"""

import hmac
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web

from trieline.actors.env_returns import MAX_TASK_ID, Step, Task
from trieline.actors.errors import EnvFailure
from trieline.actors.gateway.apis.json_body import record_of
from trieline.actors.gateway.errors import BadRequestError, NotFoundError, UnknownKeyError, UpstreamError
from trieline.actors.gateway.exchange import Closed
from trieline.actors.gateway.http_body import Handler, fields_of, json_response, key_of
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.sessions import Sessions
from trieline.wire.messages import Text

Name = Annotated[str, msgspec.Meta(max_length=MAX_TASK_ID)]
MAX_LEVEL = 2**31 - 1
MAX_NOTES = 64
"""Of one session: they travel with its tree."""


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions`."""

    env_id: Name = ""
    task_id: Name = ""
    level: Annotated[int, msgspec.Meta(ge=0, le=MAX_LEVEL)] = 0
    metadata: Annotated[dict[Name, Text], msgspec.Meta(max_length=MAX_NOTES)] = {}


class RewardRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions/ID/rewards`."""

    reward: float
    request_id: str = ""


class CloseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /sessions/ID/close`."""

    reward: float | None = None
    cause: str = ""
    reason: str = ""
    terminated: bool = True
    score: str = ""


class Environment(Protocol):
    """What an agent acts in, where it does so through the gateway."""

    @property
    def task(self) -> Task: ...

    async def act(self, action: str) -> Step:
        """One action. Raises RefusedError, EnvFailure."""


class StepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /s/KEY/step`."""

    action: str


Seat = Callable[[OpenRequest], Session]
"""Opens a session for somebody who asks for one. Raises RefusedError."""


class SessionRoutes:
    """Those of one gateway."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        admin_key: str,
        urls: Callable[[Session], dict[str, str]],
        seat: Seat | None,
    ) -> None:
        """`seat`: how sessions are opened; None: with what is asked for."""
        self._sessions = sessions
        self._admin_key = admin_key
        self._urls = urls
        self._seat = seat or self._open
        self.environments: Mapping[str, Environment] = {}
        """What the agents of sessions act in, by the sessions' keys."""

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve them."""
        router.add_get("/health", self._health)
        router.add_post("/sessions", self._admin(self._open_session))
        router.add_get("/sessions/{id}", self._admin(self._session))
        router.add_post("/sessions/{id}/rewards", self._admin(self._reward))
        router.add_post("/sessions/{id}/close", self._admin(self._close_session))
        router.add_get("/s/{key}/task", self._task)
        router.add_post("/s/{key}/step", self._step)

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return json_response(self._sessions.counts())

    async def _open_session(self, request: web.Request) -> web.StreamResponse:
        asked = record_of(await fields_of(request), OpenRequest)
        session = self._seat(asked)
        return json_response(
            self._shown(session) | {"key": session.opened.key} | self._urls(session), status=201
        )

    def _open(self, asked: OpenRequest) -> Session:
        return self._sessions.open(
            env_id=asked.env_id, task_id=asked.task_id, level=asked.level, metadata=asked.metadata
        )

    async def _session(self, request: web.Request) -> web.StreamResponse:
        return json_response(self._shown(self._sessions.of_id(request.match_info["id"])))

    async def _reward(self, request: web.Request) -> web.StreamResponse:
        session = self._sessions.of_id(request.match_info["id"])
        asked = record_of(await fields_of(request), RewardRequest)
        self._sessions.reward(session, asked.reward, request_id=asked.request_id)
        return json_response(self._shown(session))

    async def _close_session(self, request: web.Request) -> web.StreamResponse:
        session = self._sessions.of_id(request.match_info["id"])
        asked = record_of(await fields_of(request), CloseRequest)
        if asked.cause and asked.reward is not None:
            msg = "reward: expected none with a cause, since a broken episode has no reward, got one"
            raise BadRequestError(msg, param="reward")
        closed = Closed(
            cause=asked.cause,
            reason=asked.reason,
            terminated=asked.terminated,
            score=asked.score,
            reward=asked.reward,
        )
        self._sessions.close(session, closed)
        return json_response(self._shown(session))

    def _shown(self, session: Session) -> dict[str, Any]:
        opened = session.opened
        return {
            "session_id": opened.session_id,
            "env_id": opened.env_id,
            "task_id": opened.task_id,
            "level": opened.level,
            "metadata": opened.metadata,
            "requests": len(session.exchanges),
            "sampled_tokens": session.sampled_tokens,
            "rewards": [rewarded.reward for rewarded in session.rewards],
            "closed": session.closed is not None,
        }

    async def _task(self, request: web.Request) -> web.StreamResponse:
        task = self._environment(request).task
        return json_response({"task_id": task.task_id, "messages": task.messages, "tools": task.tools})

    async def _step(self, request: web.Request) -> web.StreamResponse:
        asked = record_of(await fields_of(request), StepRequest)
        try:
            step = await self._environment(request).act(asked.action)
        except EnvFailure as failure:
            raise UpstreamError(failure.reason) from failure
        return json_response(
            {
                "messages": step.messages,
                "reward": step.reward,
                "terminated": step.terminated,
                "truncated": step.truncated,
            }
        )

    def _environment(self, request: web.Request) -> Environment:
        environment = self.environments.get(request.match_info["key"])
        if environment is None:
            msg = "expected the key of a session with an environment, got another"
            raise NotFoundError(msg)
        return environment

    def _admin(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            wanted = self._admin_key
            # Bytes of a header that are no text come as lone surrogates.
            brought = key_of(request).encode(errors="surrogateescape")
            if wanted and not hmac.compare_digest(brought, wanted.encode()):
                msg = "expected the gateway's admin_key (Authorization: Bearer), got another or none"
                raise UnknownKeyError(msg)
            return await handler(request)

        return checked
