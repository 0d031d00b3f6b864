"""SWE-ReX's side of `benchmarks/sandbox.py`: a program of its own, run by a Python that has `swe-rex`.

    PYTHON benchmarks/swe_rex_side.py IMAGE PROGRAM

Reads lines of JSON, `{"what": ..., "count": ...}`, and answers each with a line: `count` times in
milliseconds. Its Docker deployment is used as it is, on the network of the host (an engine without a bridge
has no other); IMAGE has its server, so that nothing is installed at the start. `true` and `program`
go by `execute`, which starts a process, as exec does elsewhere; `line` goes by a shell session, which is how
SWE-agent uses it. It has nothing like a fork.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import IO, Any

from swerex.deployment.docker import DockerDeployment
from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest
from swerex.utils.free_port import find_free_port

PATH = "/opt/swe-rex/bin:/usr/local/bin:/usr/bin:/bin"
STARTUP_SECONDS = 60.0


def deployment(image: str) -> DockerDeployment:
    """Not started. The port is the server's own: with the host's network nothing is mapped."""
    port = find_free_port()
    arguments = ["--network=host", "-e", f"PATH={PATH}", "-e", f"SWE_REX_PORT={port}"]
    settings = {"image": image, "port": port, "docker_args": arguments, "pull": "never"}
    return DockerDeployment(startup_timeout=STARTUP_SECONDS, **settings)


class Side:
    """One container to run commands in, and new ones to start and stop."""

    def __init__(self, image: str, program: list[str]) -> None:
        self._image, self._program = image, program
        self._deployment = deployment(image)

    async def start(self) -> None:
        await self._deployment.start()
        await self._deployment.runtime.create_session(CreateBashSessionRequest())

    async def close(self) -> None:
        await self._deployment.stop()

    async def true(self) -> None:
        """The least program."""
        done = await self._deployment.runtime.execute(Command(command=["true"], timeout=10.0))
        assert done.exit_code == 0

    async def program(self) -> None:
        """The program of the benchmark."""
        done = await self._deployment.runtime.execute(Command(command=self._program, timeout=10.0))
        assert done.stdout == "42\n"

    async def line(self) -> None:
        """A line of shell, in its session."""
        done = await self._deployment.runtime.run_in_session(BashAction(command="echo 42", timeout=10.0))
        assert done.output.strip() == "42", done

    async def clean(self) -> None:
        """A new container, and its end."""
        other = deployment(self._image)
        await other.start()
        await other.stop()


async def answer(side: Side, requests: IO[str], replies: IO[str]) -> None:
    """Until there are no more requests."""
    await side.start()
    try:
        replies.write("ready\n")
        replies.flush()
        for line in requests:
            request: dict[str, Any] = json.loads(line)
            act: Callable[[], Awaitable[None]] = getattr(side, request["what"])
            taken = []
            for _ in range(request["count"]):
                started = time.perf_counter()
                await act()
                taken.append((time.perf_counter() - started) * 1e3)
            replies.write(json.dumps(taken) + "\n")
            replies.flush()
    finally:
        await side.close()


def main() -> None:
    image, program = sys.argv[1:]
    # What the library says on stdout must not come between the answers.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asyncio.run(answer(Side(image, json.loads(program)), sys.stdin, replies))


if __name__ == "__main__":
    main()
