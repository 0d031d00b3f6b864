"""A server on loopback that answers every request of the three APIs with one reply, or refuses it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from trieline.actors.gateway.apis import anthropic_messages, chat_completions, responses
from trieline.actors.gateway.apis.api import Api
from trieline.actors.gateway.apis.json_body import body_of
from trieline.actors.gateway.asked import Asked, Replied
from trieline.actors.gateway.errors import RefusedError

APIS: dict[str, Api] = {
    "/v1/chat/completions": chat_completions,
    "/v1/responses": responses,
    "/v1/messages": anthropic_messages,
}


class ApiServer:
    """Answers, and keeps what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.answer: Replied | RefusedError
        self.dies_with: RefusedError | None = None
        """What ends a stream that has begun."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        api = APIS[request.path]
        try:
            asked = api.read(body_of(await request.read()), request.headers)
            self.asked.append(asked)
            if isinstance(self.answer, RefusedError):
                raise self.answer
        except RefusedError as error:
            status, headers, said = api.error(error, "r1")
            return web.json_response(said, status=status, headers=headers)
        if not asked.stream:
            return web.json_response(api.body(self.answer, asked))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(api.waiting())
        if self.dies_with is not None:
            await stream.write(api.error_event(self.dies_with, "r1"))
        else:
            for event in api.events(self.answer, asked):
                await stream.write(event)
        return stream


@contextmanager
def running_server() -> Iterator[ApiServer]:
    """In a thread of its own, so that clients may block."""
    server, loop, up = ApiServer(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> Any:
        app = web.Application()
        for path in APIS:
            app.router.add_post(path, server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def run() -> None:
        runner = loop.run_until_complete(serve())
        up.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
