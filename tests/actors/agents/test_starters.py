"""Programs that are started, and what becomes of those that print without end or lose their parent."""

import asyncio
import os
from pathlib import Path

import pytest

from trieline.actors.agents.agent_process import MARK, Programs, Start, Starter, read_output
from trieline.actors.agents.forked import ForkedPrograms
from trieline.actors.errors import ActorError

FLOOD = """
import resource, sys, time
while resource.getrlimit(resource.RLIMIT_FSIZE)[0] < 0:
    time.sleep(0.01)
for _ in range(1000):
    sys.stdout.write("y" * 1000)
"""
ENDED_S = 60.0


def start_of(folder: Path, program: str, *, file_bytes: int = 1 << 20) -> Start:
    (folder / "task.txt").write_text("a task")
    (folder / "agent.py").write_text(program)
    return Start(
        argv=["python", str(folder / "agent.py")],
        environment={**os.environ, MARK: "0123456789abcdef"},
        folder=folder,
        files=folder,
        task=folder / "task.txt",
        file_bytes=file_bytes,
    )


@pytest.mark.parametrize("starter", [Programs(), ForkedPrograms(["json"])], ids=["afresh", "forked"])
def test_a_program_that_prints_without_end_does_not_fill_the_disk(tmp_path: Path, starter: Starter) -> None:
    async def play() -> None:
        start = start_of(tmp_path, FLOOD, file_bytes=5000)
        try:
            async with asyncio.timeout(ENDED_S):
                assert (await starter.run(start)).status != 0
        finally:
            await starter.close()
        assert len(read_output(start, 1 << 20)) <= 5000

    asyncio.run(play())


def test_a_process_to_fork_from_that_died_is_started_again(tmp_path: Path) -> None:
    async def play() -> None:
        starter = ForkedPrograms(["json"])
        start = start_of(tmp_path, "import os; os.kill(os.getppid(), 9)")
        try:
            async with asyncio.timeout(ENDED_S):
                with pytest.raises(OSError, match="is gone"):
                    await starter.run(start)
                assert (await starter.run(start_of(tmp_path, "pass"))).status == 0
        finally:
            await starter.close()

    asyncio.run(play())


def test_modules_that_cannot_be_imported_are_told_of_each_time(tmp_path: Path) -> None:
    async def play() -> None:
        starter = ForkedPrograms(["there_is_none_such"])
        async with asyncio.timeout(ENDED_S):
            for _ in range(2):
                with pytest.raises(ActorError, match="importable"):
                    await starter.run(start_of(tmp_path, "pass"))
        await starter.close()

    asyncio.run(play())
