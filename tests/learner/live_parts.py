"""A policy server and an actor for tests of the learner: real processes and sockets, a made-up game."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from trieline.common.arrays import Int32
from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Assignment, Completion, Sampling
from trieline.wire.trajectory_link import Stopped, TreeSender
from trieline.wire.tree import SCORED, TrajectoryTree

SERVER = """
import logging, msgspec, sys
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.process import run_policy_server
logging.basicConfig(level=logging.INFO)
sys.exit(run_policy_server(
    PolicyServerConfig(threads=1), model=ModelConfig(path=sys.argv[1], dtype="float32"),
    links=msgspec.json.decode(sys.argv[2], type=LinksConfig)))
"""

LEARNER = """
import logging, msgspec, sys
from pathlib import Path
from trieline.wire.config import EnvConfig, LinksConfig, ModelConfig
from trieline.wire.task_lists import TaskLists
from trieline.learner.config import EvaluationConfig, LearnerConfig
from trieline.learner.process import LearnerRun, run_learner
logging.basicConfig(level=logging.INFO)
sys.exit(run_learner(LearnerRun(
    config=msgspec.json.decode(sys.argv[3], type=LearnerConfig),
    model=ModelConfig(path=sys.argv[1], dtype="float32"),
    envs=[EnvConfig(id="test/Even-v0")], links=msgspec.json.decode(sys.argv[2], type=LinksConfig),
    run_dir=Path(sys.argv[4]), seed=0, resume=False, evaluation=EvaluationConfig(episodes=2),
    tasks=msgspec.json.decode(sys.argv[5] if sys.argv[5:] else "{}", type=dict[str, TaskLists]))))
"""


def free_links() -> LinksConfig:
    trajectories, generate, fetch = (free_loopback_address() for _ in range(3))
    return LinksConfig(
        trajectories=trajectories,
        generate=generate,
        weights_fetch=fetch,
        heartbeat_s=0.2,
        peer_timeout_s=20.0,
    )


@contextmanager
def program(code: str, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program in a process of its own, killed at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def policy_server(links: LinksConfig, model: Path, log: Path) -> Iterator[None]:
    with program(SERVER, log, str(model), msgspec.json.encode(links).decode()):
        yield


EXPERT = Completion(
    request_id=0,
    token_ids=np.full(4, 50, np.int32),
    logprobs=np.zeros(4, np.float32),
    entropies=np.zeros(4, np.float32),
    policy_versions=np.zeros(4, np.int32),
    finish_reason="stop",
)
"""Of one who always writes four times the same even token."""


class EvenActor:
    """Plays a game in its own thread: sample four tokens, the reward is the share of even ones."""

    def __init__(
        self,
        links: LinksConfig,
        name: str = "even",
        *,
        break_every: int = 0,
        success: Callable[[Assignment], float] = lambda assignment: 0.5,
    ) -> None:
        """`success`: the reward of an evaluation."""
        self.sent: list[tuple[int, int]] = []
        """(sequence number, assignment id) of every tree to train on."""
        self.asked: list[Assignment] = []
        """In order."""
        self._success = success
        self.stopped = False
        self._links = links
        self._name = name
        self._break_every = break_every
        self._closing = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), daemon=True)

    def __enter__(self) -> "EvenActor":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self.join()

    def leave(self) -> None:
        """Play no further task."""
        self._closing.set()

    def join(self) -> None:
        """Wait until the actor has stopped."""
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    async def _play(self) -> None:
        sender = TreeSender(self._links, actor_id=self._name, capacity=4)
        client = PolicyClient(self._links)
        await sender.start()
        await client.start()
        try:
            while not self._closing.is_set():
                try:
                    assignment = await asyncio.wait_for(sender.next_assignment(), 0.5)
                except TimeoutError:
                    continue
                self.asked.append(assignment)
                tree = await self._tree(client, assignment)
                number = await sender.send(assignment.assignment_id, tree)
                if number is not None and assignment.purpose == "train":
                    self.sent.append((number, assignment.assignment_id))
        except Stopped:
            await sender.flush(10)
            self.stopped = True
        finally:
            await client.close()
            await sender.close()

    async def _tree(self, client: PolicyClient, assignment: Assignment) -> TrajectoryTree:
        prompt = np.frombuffer(f"task {assignment.seed}".encode(), np.uint8).astype(np.int32)
        if assignment.purpose == "demonstrate":
            return even_tree(assignment, prompt, [EXPERT])
        if assignment.purpose == "evaluate":
            tree = even_tree(assignment, prompt, [EXPERT] * assignment.group_size)
            rewards = np.where(tree.rewards > 0, self._success(assignment), 0).astype(np.float32)
            return replace(tree, rewards=rewards)
        completions = await asyncio.gather(
            *(
                client.generate(prompt, Sampling(max_tokens=4, seed=assignment.seed + i), timeout_s=60)
                for i in range(assignment.group_size)
            )
        )
        broken = bool(self._break_every) and len(self.sent) % self._break_every == 0
        return even_tree(assignment, prompt, completions, cause="sandbox" if broken else SCORED)


def even_tree(
    assignment: Assignment, prompt: Int32, completions: list[Completion], *, cause: str = SCORED
) -> TrajectoryTree:
    group = len(completions)
    blank = np.zeros(len(prompt), np.float32)
    lengths = [len(prompt), *(len(c.token_ids) for c in completions)]
    rewards = [float((c.token_ids % 2 == 0).mean()) for c in completions]
    return TrajectoryTree(
        env_id=assignment.env_id,
        task_id=assignment.task_id or str(assignment.seed),
        parents=np.array([-1] + [0] * group, np.int32),
        node_offsets=np.cumsum([0, *lengths]).astype(np.int32),
        sampled=np.array([False] + [True] * group),
        rewards=np.array([0.0, *rewards], np.float32),
        fork_causes=("", *["rollout"] * group),
        token_ids=np.concatenate([prompt, *(c.token_ids for c in completions)]).astype(np.int32),
        behavior_logprobs=np.concatenate([blank, *(c.logprobs for c in completions)]),
        entropies=np.concatenate([blank, *(c.entropies for c in completions)]),
        policy_versions=np.concatenate(
            [np.full(len(prompt), -1), *(c.policy_versions for c in completions)]
        ).astype(np.int32),
        leaf_nodes=np.arange(1, group + 1, dtype=np.int32),
        leaf_terminated=np.ones(group, np.bool_),
        leaf_causes=(cause,) * group,
        info={"prompt": "a task", "reply": "a reply"},
    )


def records(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(run_dir: Path, step: int, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(r["step"] == step and "reward/mean" in r for r in records(run_dir)):
        assert time.monotonic() < deadline, f"step {step} was not made within {timeout_s} s"
        time.sleep(0.05)
