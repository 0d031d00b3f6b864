"""A small HTTP server in a thread that speaks as vLLM or SGLang do, and says what a test wants it to say."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

VOCAB = 300
DEADLINE_S = 30.0


class FakeEngine:
    """Listens on a port of loopback from `__enter__` to `__exit__`. Its weights are what it was told last."""

    def __init__(self, *, port: int = 0, socket: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        """Paths with their queries, and bodies, in order, without looks whether it lives."""
        self.label = "default"
        self.weights: list[Path] = []
        """What was read."""
        self.broken: dict[str, tuple[int, str]] = {}
        """By path: status and text that it answers instead."""
        self.hangs: set[str] = set()
        """Paths that it answers after `release` alone."""
        self.answer: Answer | None = None
        """What it answers to requests for tokens; None: as many as were asked for."""
        self.held: list[dict[str, Any]] = []
        """Requests for tokens that wait for `release`."""
        self.holds = False
        self.info: dict[str, Any] = dict(VLLM_INFO)
        self.port = port
        self._socket = socket
        self._released: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fake engine")
        self._up = threading.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FakeEngine":
        self._thread.start()
        assert self._up.wait(DEADLINE_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)

    def release(self) -> None:
        """Answer what it holds, and hold nothing any more."""
        self.holds = False
        assert self._released is not None
        self._loop.call_soon_threadsafe(self._released.set)

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def after(self, path: str, number: int) -> str:
        """What came after the call of this path that is the `number`th, from 1."""
        paths = self.paths()
        return paths[[place for place, one in enumerate(paths) if one == path][number - 1] + 1]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._begin())
        self._up.set()
        self._loop.run_forever()

    async def _begin(self) -> None:
        self._released = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        if self._socket:
            await web.UnixSite(self._runner, self._socket).start()
            return
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _end(self) -> None:
        assert self._runner is not None
        assert self._released is not None
        self._released.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body: Any = await request.json() if request.can_read_body else None
        if request.path != "/health":
            self.calls.append((request.path_qs, body))
        if request.path in self.hangs:
            assert self._released is not None
            await self._released.wait()
        if request.path in self.broken:
            status, text = self.broken[request.path]
            return web.Response(status=status, text=text)
        if request.path in ("/inference/v1/generate", "/generate"):
            return await self._generate(request, body)
        return self._control(request, body)

    async def _generate(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.holds:
            assert self._released is not None
            self.held.append(body)
            await self._released.wait()
        if self.answer is not None:
            return await self.answer(request, body)
        if request.path == "/generate":
            return web.json_response(sglang_reply(self.label, body["sampling_params"]["max_new_tokens"]))
        return web.json_response(vllm_reply(self.label, body["sampling_params"]["max_tokens"]))

    def _control(self, request: web.Request, body: Any) -> web.StreamResponse:
        match request.path:
            case "/health":
                return web.Response()
            case "/server_info":
                return web.json_response(self.info)
            case "/collective_rpc":
                self.weights.append(Path(body["kwargs"]["weights_path"]))
                return web.json_response({"results": [None]})
            case "/update_weight_version":
                self.label = body["new_version"]
                return web.json_response({"success": True, "new_version": self.label})
            case "/reset_prefix_cache":
                return web.json_response({"success": True})
            case "/pause" | "/resume" | "/flush_cache":
                return web.json_response({"status": "done"})
            case "/update_weights_from_disk":
                self.weights.append(Path(body["model_path"]))
                self.label = body["weight_version"]
                return web.json_response({"success": True, "message": "", "num_paused_requests": 0})
        return web.json_response({"detail": "Not Found"}, status=404)


VLLM_INFO: dict[str, Any] = {
    "vllm_config": {
        "model_config": {
            "dtype": "torch.float32",
            "logprobs_mode": "processed_logprobs",
            "max_model_len": 128,
            "max_logprobs": 20,
        },
        "device_config": {"device": "cuda"},
        "speculative_config": None,
    }
}
SGLANG_INFO: dict[str, Any] = {
    "dtype": "float32",
    "context_length": 128,
    "sampling_mask_max_tokens": 64,
    "speculative_algorithm": None,
}


def vllm_reply(label: str, count: int) -> dict[str, Any]:
    """`count` tokens, each of which had one half, and two others a quarter each."""
    tops = [{"token_id": t, "logprob": p, "rank": n} for n, (t, p) in enumerate(TOPS, 1)]
    return {
        "request_id": "generate-tokens-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": [7] * count,
                "weight_versions": [{"version": label, "start": 0, "end": count}],
                "logprobs": {
                    "content": [{"token_id": 7, "logprob": TOPS[0][1], "rank": 1, "top_logprobs": tops}]
                    * count
                },
            }
        ],
    }


def sglang_reply(label: str, count: int) -> dict[str, Any]:
    """The same tokens as SGLang would tell them."""
    return {
        "text": "...",
        "output_ids": [7] * count,
        "meta_info": {
            "id": "1",
            "finish_reason": {"type": "length", "length": count},
            "prompt_tokens": 3,
            "weight_version": label,
            "output_token_logprobs": [[TOPS[0][1], 7, None]] * count,
            "output_top_logprobs": [[[p, t, None] for t, p in TOPS]] * count,
            "completion_tokens": count,
        },
    }


TOPS = [(7, -0.6931471806), (3, -1.3862943611), (9, -1.3862943611), (1, -9999.0)]
