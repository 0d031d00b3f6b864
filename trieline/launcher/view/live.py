"""The page of a run that goes on, served to a browser on this machine alone.

On loopback, below a path that nobody can guess; a request that names another host is refused, so that no page
of the web reaches it by a name that it lets point here. The browser asks for what came since.
"""

import asyncio
import hmac
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from aiohttp import web

from trieline.common.errors import TrielineError
from trieline.launcher.recording import find_recording
from trieline.launcher.view.page import creditor_of, page, page_facts, safe_json
from trieline.launcher.view.selection import Selection
from trieline.launcher.view.shown_tree import Fields, shown_tree

HOST = "127.0.0.1"
READ_EVERY_S = 1.0
TREES_A_REPLY = 40
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(kw_only=True, slots=True)
class GrowingTrees:
    """The newest trees of a run, read on as its journal grows. One thread at a time calls `read`."""

    path: str
    selection: Selection
    model: str | None = None
    trees: deque[Fields] = field(default_factory=deque)
    """By their numbers, ascending."""
    dropped: int = 0
    """Older ones."""
    problem: str = ""
    """Why there is nothing new, if that is known."""
    _next: int = -1
    """The record to read next."""

    def facts(self) -> Fields:
        """What the page says of the run as a whole."""
        recording = find_recording(self.path)
        config = recording.config()
        texts = recording.token_texts(self.model)
        return {**page_facts(recording, config, texts, creditor_of(config)), "live": True, "after": -1}

    def read(self) -> None:
        """Take what was recorded since the last time; of very much, the newest."""
        try:
            recording = find_recording(self.path)
            self._next = max(self._next, self.selection.first)
            came: deque[tuple[int, Any]] = deque(maxlen=self.selection.most)
            matching = 0
            for number, delivery in enumerate(recording.deliveries(first=self._next), start=self._next):
                self._next = number + 1
                if self.selection.holds(number, delivery):
                    matching += 1
                    came.append((number, delivery))
            self.dropped += matching - len(came)
            if came:
                texts, creditor = recording.token_texts(self.model), creditor_of(recording.config())
                for number, delivery in came:
                    self.trees.append(shown_tree(delivery, number, texts=texts, creditor=creditor))
            self.problem = ""
        except TrielineError as error:
            self.problem = str(error) if self.trees else "no trees yet"
        while len(self.trees) > self.selection.most:
            self.trees.popleft()
            self.dropped += 1

    def since(self, number: int) -> Fields:
        """The trees after this one, as many as go into one reply."""
        new = list(islice((t for t in list(self.trees) if t["number"] > number), TREES_A_REPLY + 1))
        sent = new[:TREES_A_REPLY]
        note = f"the newest {len(self.trees)} trees; {self.dropped} before them are left out"
        return {
            "trees": sent,
            "after": sent[-1]["number"] if sent else number,
            "more": len(new) > len(sent),
            "most": self.selection.most,
            "left_out": note if self.dropped else "",
            "problem": self.problem,
        }


class LivePage:
    """The server. `start` it, tell people its `url`, and `close` it."""

    def __init__(self, trees: GrowingTrees, *, port: int = 0) -> None:
        """`port` 0: any that is free."""
        self._trees = trees
        self._port = port
        self._token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None
        self._reading: asyncio.Task[None] | None = None
        self._hosts: frozenset[str] = frozenset()
        self.url = ""

    async def start(self) -> None:
        """Read what is there, and serve. Raises OSError: the port is taken."""
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/trees", self._new_trees)
        await asyncio.to_thread(self._trees.read)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self._hosts = frozenset({f"{HOST}:{port}", f"localhost:{port}"})
        self.url = f"http://{HOST}:{port}/{self._token}/"
        self._reading = asyncio.create_task(self._read_on())

    async def close(self) -> None:
        """Stop. Idempotent."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(READ_EVERY_S)
            await asyncio.to_thread(self._trees.read)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host", "") not in self._hosts:
            reply: web.StreamResponse = web.Response(status=421, text="this host is not served here\n")
        elif not hmac.compare_digest(
            request.match_info.get("token", "").encode("utf-8", "replace"), self._token.encode()
        ):
            reply = web.Response(status=404, text="not found\n")
        else:
            reply = await handler(request)
        reply.headers.update(_HEADERS)
        return reply

    async def _page(self, request: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread(lambda: page(self._trees.facts(), []))
        return web.Response(text=text, content_type="text/html")

    async def _new_trees(self, request: web.Request) -> web.StreamResponse:
        after = request.query.get("after", "")
        if not (after == "-1" or (after.isascii() and after.isdigit() and len(after) < 12)):
            return web.Response(status=400, text="expected after=NUMBER\n")
        return web.Response(text=safe_json(self._trees.since(int(after))), content_type="application/json")


async def serve(trees: GrowingTrees, *, port: int, started: Callable[[str], None]) -> None:
    """Serve until cancelled; `started` is told the address."""
    server = LivePage(trees, port=port)
    try:
        await server.start()
        started(server.url)
        await asyncio.Event().wait()
    finally:
        await server.close()
