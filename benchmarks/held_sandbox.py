"""An environment whose episodes hold a container each, run a program in it and keep an image of it.

Of no use to learn from: `benchmarks/kill_nine.py` kills the programs that play it.
"""

import gymnasium

from trieline.envs.sandbox import Sandbox, SandboxLimits, SandboxSpec, Snapshot, open_sandbox
from trieline.envs.text_env import Split, TextEnv, Turn

ENV_ID = "kill-nine/HeldSandbox-v0"
LIMITS = SandboxLimits(wall_seconds=10.0, memory_bytes=128 * 1024 * 1024, pids=16)
SPEC = SandboxSpec(image="trieline/python:1", workdir="/work", writable_root=True)
PROGRAM = ["sh", "-c", "sleep 1"]
TASKS = 1000


class HeldSandbox(TextEnv[int]):
    """Two turns. The reward is chance, so that there is something to train on."""

    levels = 1

    def __init__(self, *, split: Split = "train", level: int = 0, render_mode: str | None = None) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        self._sandbox: Sandbox | None = None
        self._snapshot: Snapshot | None = None

    def draw_task(self, level: int) -> int:
        return int(self.np_random.integers(TASKS))

    def task_id(self, task: int) -> str:
        return str(task)

    def parse_task(self, task_id: str) -> int:
        return int(task_id)

    def begin(self, task: int) -> str:
        self.close()
        self._sandbox = open_sandbox("docker", LIMITS, SPEC)
        return "Say anything."

    def act(self, action: str) -> Turn:
        assert self._sandbox is not None, "an episode has begun"
        self._sandbox.exec(PROGRAM)
        if self._snapshot is not None:
            return Turn(observation="Thank you.", reward=float(len(action) % 2), over=True)
        self._snapshot = self._sandbox.snapshot()
        return Turn(observation="Say more.")

    def close(self) -> None:
        for held in (self._sandbox, self._snapshot):
            if held is not None:
                held.close()
        self._sandbox = self._snapshot = None


gymnasium.register(id=ENV_ID, entry_point=f"{__name__}:HeldSandbox")
