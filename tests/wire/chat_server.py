"""A chat-completions endpoint on loopback that answers by a script: real HTTP, in threads of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is sent back, as it is."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Nothing more comes after the status line, until the server ends."""


Script = Callable[[dict[str, Any]], "str | Answer"]
"""The request's body to a reply of the model, or to anything else."""


class ChatServer:
    """Up between `start` and `close`."""

    def __init__(self, script: Script, *, usage: bool = True) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._script, self._usage = script, usage
        self._lock = threading.Lock()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.headers.append({**dict(self.headers.items()), "path": self.path})
                answer = outer.answer(body)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.hangs:
                    self.wfile.flush()
                    outer._over.wait()
                    return
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> Answer:
        said = self._script(body)
        if isinstance(said, Answer):
            return said
        reply: dict[str, Any] = {
            "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]
        }
        if self._usage:
            reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
        return Answer(body=json.dumps(reply).encode())

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def chat_server(script: Script, *, usage: bool = True) -> Iterator[ChatServer]:
    server = ChatServer(script, usage=usage)
    server.start()
    try:
        yield server
    finally:
        server.close()
