"""The gateway beside its policy server asked directly: the same chats, at 1, 64 and 1,000 sessions at once.

    python -m benchmarks.gateway [--model builtin:smollm2-135m-instruct] [--sessions 1 64 1000] [--rounds 3]

Each session is a chat of three turns, of 16 new tokens at most in each; the prompt of a turn is the one
before, what was sampled, and 24 new tokens or so. `direct` renders the chats in this process and asks the
policy server over its own link; `gateway` sends them over HTTP with the OpenAI API's bodies to a gateway that
records them on the disk, a program of its own. Both take turns in each round, which begins with prompts that
nobody has asked yet. Tokens a second are those of the median round; beside them the processor time and the
memory of the gateway. Written to `benchmarks/results/gateway.json`.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import psutil

from benchmarks.train_step import machine
from trieline.actors.chat import ChatRenderer
from trieline.common.message import user_message
from trieline.learner.model_folder.model_source import prepare_model
from trieline.wire.config import LinksConfig
from trieline.wire.messages import Sampling
from trieline.wire.model_folder import tokenizer_folder
from trieline.wire.policy_client import PolicyClient

RESULTS = Path(__file__).parent / "results" / "gateway.json"
TURNS, NEW_TOKENS = 3, 16
PORT = 7719
START_S = 180.0
TIMEOUT_S = 600.0
WORDS = ["oak", "ash", "elm", "fir", "yew", "birch", "maple", "cedar", "alder", "hazel", "rowan", "larch"]


def opening(session: int, round_: int, side: str) -> str:
    """A first message that no other session has."""
    words = " ".join(WORDS[(session * 7 + i) % len(WORDS)] for i in range(24))
    return f"{side} {round_}.{session}: which of these trees is the tallest? {words}"


class Direct:
    """The policy server, asked by its own link."""

    def __init__(self, renderer: ChatRenderer, links: LinksConfig) -> None:
        self._renderer = renderer
        self._client = PolicyClient(links)

    async def start(self) -> None:
        await self._client.start()
        await self._client.status(START_S)

    async def close(self) -> None:
        await self._client.close()

    async def chat(self, session: int, round_: int) -> int:
        """All turns of one session. Returns the tokens that were sampled."""
        prompt = self._renderer.chat_tokens([user_message(opening(session, round_, "a"))])
        count = 0
        for turn in range(1, TURNS + 1):
            sampling = Sampling(max_tokens=NEW_TOKENS, stop_ids=self._renderer.stop_ids, seed=session)
            made = await self._client.generate(prompt, sampling, timeout_s=TIMEOUT_S, task=f"{session}")
            count += len(made.token_ids)
            later = self._renderer.turn_tokens(
                turn, [user_message(_question(turn))], last_token=int(made.token_ids[-1])
            )
            prompt = np.concatenate([prompt, made.token_ids, later])
        return count


class Gateway:
    """The gateway, asked over HTTP."""

    def __init__(self) -> None:
        self._url = f"http://127.0.0.1:{PORT}"
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        end = time.monotonic() + START_S
        while True:
            try:
                async with self._http.get(f"{self._url}/health"):
                    return
            except aiohttp.ClientError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        assert self._http is not None
        await self._http.close()

    async def chat(self, session: int, round_: int) -> int:
        """As `Direct.chat`, with the session opened and closed."""
        opened = await self._post("/sessions", {})
        messages = [{"role": "user", "content": opening(session, round_, "b")}]
        count = 0
        for turn in range(1, TURNS + 1):
            made = await self._post(
                f"/s/{opened['key']}/v1/chat/completions",
                {"model": "policy", "messages": messages, "max_tokens": NEW_TOKENS, "seed": session},
            )
            count += made["usage"]["completion_tokens"]
            content = made["choices"][0]["message"]["content"] or ""
            messages += [
                {"role": "assistant", "content": content},
                {"role": "user", "content": _question(turn)},
            ]
        await self._post(f"/sessions/{opened['session_id']}/close", {"reward": 0.0})
        return count

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        assert self._http is not None
        while True:
            async with self._http.post(f"{self._url}{path}", json=body) as response:
                if response.status != 429:
                    response.raise_for_status()
                    return await response.json()
            await asyncio.sleep(0.5)


def _question(turn: int) -> str:
    return f"And the next one, number {turn}, which of them is it, and why?"


async def timed(chat: Callable[[int, int], Awaitable[int]], sessions: int, round_: int) -> tuple[int, float]:
    """Tokens and seconds of all sessions at once."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(chat(session, round_) for session in range(sessions)))
    return sum(counts), time.perf_counter() - began


async def measure(
    direct: Direct, gateway: Gateway, program: psutil.Process, sessions: int, rounds: int
) -> dict[str, Any]:
    """One row."""
    await direct.start()
    await gateway.start()
    speeds: dict[str, list[float]] = {"direct": [], "gateway": []}
    processor, requests = 0.0, 0
    for round_ in range(-1, rounds):
        sides = [("direct", direct.chat), ("gateway", gateway.chat)]
        for name, chat in sides if round_ % 2 else sides[::-1]:
            before = sum(program.cpu_times()[:2])
            tokens, seconds = await timed(chat, sessions, round_ + 1000 * sessions)
            if round_ < 0:
                continue  # both sides are warm then
            speeds[name].append(tokens / seconds)
            if name == "gateway":
                processor += sum(program.cpu_times()[:2]) - before
                requests += sessions * TURNS
    row = {
        "sessions": sessions,
        "rounds": rounds,
        "direct_tokens_per_s": round(statistics.median(speeds["direct"]), 1),
        "gateway_tokens_per_s": round(statistics.median(speeds["gateway"]), 1),
        "ratio": round(statistics.median(b / a for a, b in zip(*speeds.values(), strict=True)), 3),
        "processor_ms_per_request": round(1000 * processor / requests, 2),
        "memory_mib": round(program.memory_info().rss / 2**20, 1),
    }
    await direct.close()
    await gateway.close()
    return row


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 64, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare_model(options.model, progress=print)
    with tempfile.TemporaryDirectory() as folder:
        links = {name: f"ipc://{folder}/{name}" for name in ("trajectories", "generate", "weights_fetch")}
        config = Path(folder) / "config.toml"
        lines = [f'[model]\npath = "{options.model}"\n[[envs]]\nid = "trieline/Arithmetic-v0"\n[links]\n']
        lines += [f'{name} = "{address}"\n' for name, address in links.items()]
        lines += [f"[actor]\ngenerate_timeout_s = {TIMEOUT_S}\n[gateway]\nport = {PORT}\n"]
        config.write_text("".join(lines))
        programs: list[subprocess.Popen[bytes]] = []
        try:
            for verb in (["policy-server"], ["gateway", "--record", f"{folder}/record"]):
                command = [sys.executable, "-m", "trieline", *verb, "--config", str(config)]
                with Path(folder, f"{verb[0]}.log").open("wb") as log:
                    programs.append(subprocess.Popen(command, stdout=log, stderr=log, env=os.environ))
            renderer = ChatRenderer(tokenizer_folder(options.model), system_prompt="")
            rows = []
            for sessions in options.sessions:
                sides = Direct(renderer, msgspec.convert(links, LinksConfig)), Gateway()
                program = psutil.Process(programs[1].pid)
                rows.append(asyncio.run(measure(*sides, program, sessions, options.rounds)))
                print(rows[-1], flush=True)
        finally:
            for program_ in programs:
                program_.terminate()
            for program_ in programs:
                program_.wait()
    RESULTS.write_text(json.dumps({"machine": machine(), "model": options.model, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
