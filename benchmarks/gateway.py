"""The gateway beside its policy server asked directly: the same chats, at 1, 64 and 1,000 sessions at once.

    python -m benchmarks.gateway [--model builtin:smollm2-135m-instruct] [--sessions 1 64 1000] [--rounds 3]

Each session is a chat of three turns, of 16 new tokens at most in each; the prompt of a turn is the one
before, what was sampled, and 24 new tokens or so. `direct` renders the chats in this process and asks the
policy server over its own link; `gateway` sends them over HTTP with the OpenAI API's bodies to a gateway that
records them on the disk, a program of its own. Both take turns in each round, which begins with prompts that
nobody has asked yet. Tokens a second are those of the median round, the ratio is the median of the rounds'.
Beside them stands the processor time for a token, of the client, the gateway and the policy server together,
and the share of the time in which the policy server, which has one thread here, computed nothing: so much of
its speed a side leaves unused, whatever other programs on the machine do to the speed itself. With
`builtin:tiny` the policy server costs next to nothing, and the gateway is what limits. Rows are written to
`benchmarks/results/gateway.json`, in place of those of the same model and number of sessions.
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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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
TIMEOUT_S = 800.0
WARM_SESSIONS = 16
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


@dataclass(kw_only=True, slots=True)
class Took:
    """What the rounds of one side took."""

    speeds: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    processor_s: float = 0.0
    server_s: float = 0.0
    """Of these, the policy server's."""

    @property
    def unused(self) -> float:
        """Share of the time in which the policy server had nothing to compute, or did not get to it."""
        return 1 - self.server_s / self.seconds


async def measure(
    direct: Direct, gateway: Gateway, programs: Mapping[str, psutil.Process], sessions: int, rounds: int
) -> dict[str, Any]:
    """One row."""
    await direct.start()
    await gateway.start()
    took = {"direct": Took(), "gateway": Took()}
    own_s = 0.0
    sides = [("direct", direct.chat), ("gateway", gateway.chat)]
    for _, chat in sides:
        await timed(chat, min(sessions, WARM_SESSIONS), 1000 * sessions + rounds)
    for round_ in range(rounds):
        for name, chat in sides if round_ % 2 else sides[::-1]:
            before = {program: _processor_s(process) for program, process in programs.items()}
            tokens, seconds = await timed(chat, sessions, round_ + 1000 * sessions)
            used = {program: _processor_s(process) - before[program] for program, process in programs.items()}
            side = took[name]
            side.speeds.append(tokens / seconds)
            side.tokens += tokens
            side.seconds += seconds
            side.processor_s += sum(used.values())
            side.server_s += used["policy server"]
            own_s += used["gateway"] if name == "gateway" else 0.0
    processor_ms = {name: 1000 * side.processor_s / side.tokens for name, side in took.items()}
    ratios = [b / a for a, b in zip(took["direct"].speeds, took["gateway"].speeds, strict=True)]
    row = {
        "sessions": sessions,
        "rounds": rounds,
        "direct_tokens_per_s": round(statistics.median(took["direct"].speeds), 1),
        "gateway_tokens_per_s": round(statistics.median(took["gateway"].speeds), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "direct_processor_ms_per_token": round(processor_ms["direct"], 3),
        "gateway_processor_ms_per_token": round(processor_ms["gateway"], 3),
        "processor_ratio": round(processor_ms["direct"] / processor_ms["gateway"], 3),
        "direct_unused": round(took["direct"].unused, 4),
        "gateway_unused": round(took["gateway"].unused, 4),
        "gateway_own_processor_ms_per_request": round(1000 * own_s / (rounds * sessions * TURNS), 2),
        "memory_mib": round(programs["gateway"].memory_info().rss / 2**20, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    await direct.close()
    await gateway.close()
    return row


def _processor_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def write_row(model: str, row: dict[str, Any]) -> None:
    """Into the results, beside those of other models and numbers of sessions."""
    found = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {(old["model"], old["sessions"]): old for old in found}
    rows[model, row["sessions"]] = {"model": model, **row}
    merged = [row for _, row in sorted(rows.items())]
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": merged}, indent=2) + "\n")


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
        lines += [f"[policy_server]\nthreads = 1\n[actor]\ngenerate_timeout_s = {TIMEOUT_S}\n"]
        lines += [f"[gateway]\nport = {PORT}\n"]
        config.write_text("".join(lines))
        programs: list[subprocess.Popen[bytes]] = []
        try:
            for verb in (["policy-server"], ["gateway", "--record", f"{folder}/record"]):
                command = [sys.executable, "-m", "trieline", *verb, "--config", str(config)]
                programs.append(subprocess.Popen(command, env=os.environ))
            renderer = ChatRenderer(tokenizer_folder(options.model), system_prompt="")
            measured = {
                "client": psutil.Process(),
                "policy server": psutil.Process(programs[0].pid),
                "gateway": psutil.Process(programs[1].pid),
            }
            for sessions in options.sessions:
                sides = Direct(renderer, msgspec.convert(links, LinksConfig)), Gateway()
                row = asyncio.run(measure(*sides, measured, sessions, options.rounds))
                print(row, flush=True)
                write_row(options.model, row)
        finally:
            for program in programs:
                program.terminate()
            for program in programs:
                program.wait()


if __name__ == "__main__":
    main()
