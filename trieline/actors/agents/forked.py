"""Agents in Python whose imports are paid once: each is a fork of a process that has them (`forker`)."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from trieline.actors.agents.agent_process import END_S, MARK, Ended, Start
from trieline.actors.agents.forker import NOBODY
from trieline.actors.errors import ActorError

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 120.0
LINE_BYTES = 1 << 16


class ForkedPrograms:
    """A `Starter` of `python FILE ...`. Belongs to one event loop."""

    def __init__(self, modules: Sequence[str]) -> None:
        """`modules`: to import beforehand."""
        self._modules = list(modules)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._number = 0
        self._starting = asyncio.Lock()

    async def run(self, start: Start) -> Ended:
        """As in `Starter`."""
        process = await self._ready()
        self._number += 1
        number = self._number
        ended = self._waiting[number] = asyncio.get_running_loop().create_future()
        asked = {
            "number": number,
            "argv": list(start.argv[1:]),
            "environment": dict(start.environment),
            "folder": str(start.folder),
            "files": str(start.files),
            "task": str(start.task),
            "file_bytes": start.file_bytes,
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        try:
            return Ended(status=await asyncio.shield(ended))
        except asyncio.CancelledError:
            process.stdin.write(json.dumps({"kill": number}).encode() + b"\n")
            await asyncio.wait({ended}, timeout=END_S)  # told when nothing of its group is left
            raise
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """As in `Starter`."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    async def _ready(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._reading is not None and (self._reading.done() or self._process is None):
                # It died. Those who waited are told so before others wait for the next one.
                await self._reading
                self._process = self._reading = None
            if self._process is None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "trieline.actors.agents.forker",
                    *self._modules,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES,
                    env={**os.environ, MARK: NOBODY},
                )
                answers = self._process.stdout
                assert answers is not None
                try:
                    async with asyncio.timeout(READY_TIMEOUT_S):
                        line = await answers.readline()
                except TimeoutError:
                    line = b""
                if not line:
                    with contextlib.suppress(ProcessLookupError):
                        self._process.kill()
                    await self._process.wait()
                    self._process = None
                    msg = (
                        f"expected the modules of agent.preload to be importable, got none of {self._modules}"
                    )
                    raise ActorError(msg)
                self._reading = asyncio.create_task(self._read(answers))
            return self._process

    async def _read(self, answers: asyncio.StreamReader) -> None:
        while line := await answers.readline():
            told = json.loads(line)
            waiting = self._waiting.get(told["number"])
            if waiting is not None and not waiting.done():
                waiting.set_result(told["status"])
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(OSError("the process that agents are forked from is gone"))
                waiting.exception()  # perhaps nobody waits any more
