"""The HTTP end: bodies in, replies out, each in the form of its own API.

    POST /v1/chat/completions | /v1/responses | /v1/messages     by the key of a session
    POST /s/KEY/v1/...                                            the same, the key in the path
    POST /v1/messages/count_tokens
    GET  /v1/models

Beside these, `session_routes`. No request waits without a deadline: for its body, for the policy, and for a
client that does not read.
"""

import asyncio
import logging
import time
from collections.abc import Mapping

import msgspec
from aiohttp import web

from trieline.actors.gateway.apis import anthropic_messages, chat_completions, models, responses
from trieline.actors.gateway.apis.api import Api
from trieline.actors.gateway.apis.json_body import body_of
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.errors import NotFoundError, RefusedError
from trieline.actors.gateway.http_body import Handler, json_response, key_of, read_body, refusal
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_routes import Seat, SessionRoutes
from trieline.actors.gateway.sessions import Sessions

log = logging.getLogger(__name__)

APIS: Mapping[str, Api] = {
    "chat/completions": chat_completions,
    "responses": responses,
    "messages": anthropic_messages,
}
SEND_TIMEOUT_S = 120.0
"""For a client to take all of a reply."""
CLOSE_S = 2.0


class GatewayServer:
    """Serves the sessions of one event loop."""

    def __init__(self, config: GatewayConfig, sessions: Sessions, *, seat: Seat | None = None) -> None:
        """`seat`: how sessions are opened from outside; None: with what is asked for."""
        self._config = config
        self._sessions = sessions
        self.routes = SessionRoutes(sessions, admin_key=config.admin_key, urls=self.urls, seat=seat)
        self._since = int(time.time())
        self._runner: web.AppRunner | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.port = 0
        """Where it listens."""

    async def start(self) -> None:
        """Listen. Raises OSError: the address is taken."""
        app = web.Application(client_max_size=self._config.max_body_bytes, middlewares=[_in_form])
        app.router.add_get("/", _alive)
        self.routes.add_to(app.router)
        for root in ("/v1", "/s/{key}/v1", "/s/{key}"):
            for path, api in APIS.items():
                app.router.add_post(f"{root}/{path}", self._asking(api))
            app.router.add_post(f"{root}/messages/count_tokens", self._count_tokens)
            app.router.add_get(f"{root}/models", self._models)
            app.router.add_get(f"{root}/models/{{name:.+}}", self._model)
        runner = self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_S
        )
        await runner.setup()
        await web.TCPSite(runner, self._config.host, self._config.port, backlog=1024).start()
        self.port = int(runner.addresses[0][1])
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        host = self._config.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def urls(self, session: Session) -> dict[str, str]:
        """What a client of each API is told to ask, the key in the path."""
        return {
            "openai_base_url": f"{self.url}/s/{session.opened.key}/v1",
            "anthropic_base_url": f"{self.url}/s/{session.opened.key}",
        }

    def _asking(self, api: Api) -> Handler:
        async def ask(request: web.Request) -> web.StreamResponse:
            try:
                asked = api.read(body_of(await read_body(request)), request.headers)
                # A request that comes again has its fields in another order, as Codex's have, and new ids.
                data = msgspec.json.encode(asked, order="deterministic")
                session = self._session_of(request, asked)
                making = asyncio.ensure_future(self._sessions.reply(session, asked, data))
                try:
                    # Whatever goes wrong soon is told by the status, as clients expect it.
                    done, _ = await asyncio.wait({making}, timeout=self._config.keep_alive_s)
                    if not done and asked.stream:
                        return await self._stream_late(request, api, asked, making)
                    return await self._send(request, api, asked, await making)
                except (ConnectionError, TimeoutError, asyncio.CancelledError):
                    # Not all of it was sent, nothing perhaps. What is still being made the sessions see to.
                    if making.done() and not making.cancelled() and making.exception() is None:
                        self._sessions.unheard(session, making.result(), data)
                    raise
                finally:
                    making.cancel()
            except RefusedError as error:
                return refusal(api, error)

        return ask

    async def _send(
        self, request: web.Request, api: Api, asked: Asked, replied: Replied
    ) -> web.StreamResponse:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            if asked.stream:
                stream = _stream_of(replied.request_id)
                await stream.prepare(request)
                await stream.write(b"".join(api.events(replied, asked)))
                await stream.write_eof()
                return stream
            response = json_response(api.body(replied, asked), headers={"x-request-id": replied.request_id})
            await response.prepare(request)
            await response.write_eof()
            return response

    async def _stream_late(
        self, request: web.Request, api: Api, asked: Asked, making: asyncio.Future[Replied]
    ) -> web.StreamResponse:
        """As a stream that began before there was a reply."""
        stream = _stream_of("")
        await stream.prepare(request)
        while not making.done():
            await stream.write(api.waiting())
            await asyncio.wait({making}, timeout=self._config.keep_alive_s)
        try:
            replied = await making
        except RefusedError as error:
            await stream.write(api.error_event(error))
            await stream.write_eof()
            return stream
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await stream.write(b"".join(api.events(replied, asked)))
            await stream.write_eof()
        return stream

    def _session_of(self, request: web.Request, asked: Asked) -> Session:
        key = request.match_info.get("key") or key_of(request)
        if self._config.online and key and asked.declared.session:
            key = f"{key}/{asked.declared.session}"
        return self._sessions.of_key(key)

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        api = anthropic_messages
        try:
            asked = api.read(body_of(await read_body(request)), request.headers)
            tokens = self._sessions.count_tokens(self._session_of(request, asked), asked)
        except RefusedError as error:
            return refusal(api, error)
        return json_response(api.counted(tokens))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        names = [self._config.model_name]
        if models.for_anthropic(request.headers):
            return json_response(models.anthropic_models(names, self._since))
        return json_response(models.openai_models(names, self._since))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        """Requests may name any model, so there is any."""
        name = request.match_info["name"]
        if models.for_anthropic(request.headers):
            return json_response(models.anthropic_model(name, self._since))
        return json_response(models.openai_model(name, self._since))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._sessions.sweep()


@web.middleware
async def _in_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused before any API knows of it is told in a form that clients of all of them read."""
    api = chat_completions
    try:
        return await handler(request)
    except RefusedError as error:
        return refusal(api, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        msg = f"expected an address of this gateway, got {request.method} {request.path[:200]!r}"
        return refusal(api, NotFoundError(msg))
    except (ConnectionError, TimeoutError, asyncio.CancelledError):
        raise
    except Exception:
        # A fault of ours must not end the sessions of others. The path may have a session's key in it.
        resource = request.match_info.route.resource
        log.exception("%s %s", request.method, resource.canonical if resource is not None else "elsewhere")
        raise


async def _alive(_: web.Request) -> web.StreamResponse:
    return web.Response(text="trieline gateway\n")


def _stream_of(request_id: str) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    if request_id:
        headers["x-request-id"] = request_id
    return web.StreamResponse(headers=headers)
