"""One session with an OpenEnv server over its WebSocket: reset, step, and its tools.

A message is JSON with a `type` and `data`; every one of ours is answered by one of the server's. What it says
is bounded in size and time and never more than data. A session that is lost stays lost: the server ends a
world with its socket, and another one would be another world.
"""

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from trieline.common.credentials import without_credentials
from trieline.common.numbers import MAX_REWARD
from trieline.envs.errors import EnvError, GraderError

MOST_BYTES = 4 * 2**20
RETRY_SECONDS = 0.2
"""Between tries to get a place on a server that is starting or full."""
FULL_SECONDS = 5.0
"""For a place on a server that is full. Who waits keeps a thread from those that have one."""
CAPACITY = "CAPACITY_REACHED"
INVALID = "VALIDATION_ERROR"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What a reset or a step led to."""

    observation: dict[str, Any]
    """Without what the server calls metadata, which may tell of its hidden state."""
    reward: float
    done: bool


class NotAnAction(Exception):  # no error of the server
    """The server takes no such action; the text says why."""


class Lost(GraderError):
    """The server has closed the session."""


class Session:
    """A connection that is made by the first `reset`."""

    def __init__(self, url: str, *, connect_seconds: float, answer_seconds: float) -> None:
        self.url = socket_url(url)
        self._shown = without_credentials(self.url)
        self.connect_seconds, self.answer_seconds = connect_seconds, answer_seconds
        self._socket: Any = None
        self._open = ExitStack()
        self._calls = 0

    def reset(self, options: Mapping[str, Any]) -> Observed:
        """A new world. Waits for a place on the server. Raises GraderError, EnvError if there is none."""
        deadline = time.monotonic() + FULL_SECONDS
        while True:
            if self._socket is None:
                self._connect(time.monotonic() + self.connect_seconds)
            # A server that is full says so and closes, perhaps before it is asked; an idle session is closed
            # as well, and no world is lost with it.
            with suppress(Lost):
                answer = self._ask("reset", options)
                if answer["type"] != "error" or answer["data"].get("code") != CAPACITY:
                    return self._observed(answer)
            self.close()
            if time.monotonic() > deadline:
                msg = (
                    f"{self._shown} had no free session in {FULL_SECONDS:g} s: it needs one for each episode "
                    "that is played at once (max_concurrent_envs there, actor.episodes here)"
                )
                raise GraderError(msg)
            time.sleep(RETRY_SECONDS)

    def step(self, action: Mapping[str, Any]) -> Observed:
        """Raises NotAnAction; GraderError if the server fails."""
        answer = self._ask("step", action)
        if answer["type"] == "error" and answer["data"].get("code") == INVALID:
            raise NotAnAction(_invalid(answer["data"]))
        return self._observed(answer)

    def tools(self) -> list[dict[str, Any]]:
        """Those that it offers, as JSON schemas of functions. Raises GraderError if it offers none."""
        self._calls += 1
        request = {"jsonrpc": "2.0", "method": "tools/list", "params": {}, "id": self._calls}
        answer = self._ask("mcp", request)
        result = answer["data"].get("result")
        found = result.get("tools") if isinstance(result, dict) else None
        if answer["type"] != "mcp" or not isinstance(found, list) or not found:
            self._failed(f"expected a list of tools, got {json.dumps(answer)[:200]}")
        return [self._tool(tool) for tool in found]

    def close(self) -> None:
        """Ends the world; the server is told so where it can still hear it."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        from websockets.exceptions import WebSocketException

        # It may be gone already.
        with suppress(OSError, WebSocketException):
            socket.send(json.dumps({"type": "close"}))
        with suppress(OSError, WebSocketException):
            self._open.close()

    def _connect(self, deadline: float) -> None:
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            msg = "trieline/OpenEnv-v0 needs websockets: pip install 'trieline[openenv]'"
            raise EnvError(msg) from error
        while True:
            try:
                self._socket = self._open.enter_context(
                    connect(
                        self.url, max_size=MOST_BYTES, open_timeout=self.answer_seconds, close_timeout=1.0
                    )
                )
                return
            except (OSError, WebSocketException) as error:
                if time.monotonic() > deadline:
                    msg = f"expected an OpenEnv server at {self._shown}: {type(error).__name__}: {error}"
                    raise EnvError(msg) from error
            time.sleep(RETRY_SECONDS)

    def _ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosedOK, WebSocketException

        if self._socket is None:
            msg = f"the session with {self._shown} is lost"
            raise GraderError(msg)
        try:
            self._socket.send(json.dumps({"type": kind, "data": dict(data)}))
            text = self._socket.recv(timeout=self.answer_seconds)
            answer = json.loads(text)
        except TimeoutError:
            self._failed(f"expected an answer to {kind!r} within {self.answer_seconds:g} s")
        except ConnectionClosedOK as error:
            self.close()
            msg = f"{self._shown}: the session is lost: {error}"
            raise Lost(msg) from error
        except (OSError, WebSocketException, ValueError, RecursionError) as error:
            self._failed(f"the session is lost: {type(error).__name__}: {error}")
        if (
            not isinstance(answer, dict)
            or not isinstance(answer.get("type"), str)
            or not isinstance(answer.get("data"), dict)
        ):
            self._failed(f"expected an object of type and data, got {text[:200]!r}")
        return answer

    def _observed(self, answer: dict[str, Any]) -> Observed:
        data = answer["data"]
        if answer["type"] != "observation" or not isinstance(data.get("observation"), dict):
            self._failed(f"expected an observation, got {json.dumps(answer)[:300]}")
        reward, done = data.get("reward"), data.get("done", False)
        if reward is None:
            reward = 0.0
        if not isinstance(reward, (int, float)) or not math.isfinite(reward) or abs(reward) > MAX_REWARD:
            self._failed(f"expected a finite number as reward, got {reward!r:.80}")
        if not isinstance(done, bool):
            self._failed(f"expected true or false as done, got {done!r:.80}")
        observation = {name: value for name, value in data["observation"].items() if name != "metadata"}
        return Observed(observation=observation, reward=float(reward), done=done)

    def _tool(self, tool: Any) -> dict[str, Any]:
        schema = (tool.get("input_schema") or tool.get("inputSchema")) if isinstance(tool, dict) else None
        if not isinstance(schema, dict) or not isinstance(tool.get("name"), str):
            self._failed(f"expected a tool with a name and a schema, got {tool!r:.200}")
        function = {
            "name": tool["name"],
            "description": str(tool.get("description") or ""),
            "parameters": schema,
        }
        return {"type": "function", "function": function}

    def _failed(self, why: str) -> NoReturn:
        """Raises GraderError: the episode is broken, and the socket is of no more use."""
        self.close()
        msg = f"{self._shown}: {why}"
        raise GraderError(msg)


def socket_url(url: str) -> str:
    """`ws://` or `wss://` and the path of sessions, out of what people write. Raises EnvError for others."""
    for plain, secure in (("http://", "ws://"), ("https://", "wss://")):
        if url.startswith(plain):
            url = secure + url.removeprefix(plain)
    if not url.startswith(("ws://", "wss://")) or len(url) > 2000:
        came = without_credentials(url)
        msg = f"expected the address of an OpenEnv server such as ws://127.0.0.1:8000, got {came!r:.200}"
        raise EnvError(msg)
    url = url.rstrip("/")
    return url if url.endswith("/ws") else f"{url}/ws"


def _invalid(data: Mapping[str, Any]) -> str:
    """What is wrong with an action, for who wrote it."""
    problems = []
    for problem in data.get("errors") or []:
        if isinstance(problem, dict):
            place = ".".join(str(part) for part in problem.get("loc") or ())
            problems.append(f"{place}: {problem.get('msg')}" if place else str(problem.get("msg")))
    return "; ".join(problems)[:500] or str(data.get("message"))[:500]
