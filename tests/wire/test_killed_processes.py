"""Real processes, really killed: what was journaled is there once, whatever died in between."""

import asyncio
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import numpy as np

from tests.trees import random_tree
from trieline.wire.config import LinksConfig
from trieline.wire.messages import Assignment, TreeDelivery
from trieline.wire.trajectory_link import Stopped, TreeReceiver, TreeSender

WAIT_S = 30.0
TREES = 150
ENV_ID = "test/Random-v0"
processes = multiprocessing.get_context("spawn")


def journaled(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(actor_id, int(number)) for actor_id, number in (line.split() for line in lines)]


def learn(links: LinksConfig, path: Path) -> None:
    """A learner that journals one line a tree, until it is killed."""
    with path.open("a", buffering=1) as journal:

        def accept(delivery: TreeDelivery, frames: object) -> None:
            time.sleep(0.002)
            journal.write(f"{delivery.actor_id} {delivery.sequence_number}\n")

        done = journaled(path)
        receiver = TreeReceiver(links, accept=accept, run_id="run", already_accepted=done)
        receiver.start()
        if not done:
            receiver.offer(
                Assignment(assignment_id=i, env_id=ENV_ID, seed=i, group_size=1) for i in range(TREES)
            )
        while True:
            receiver.get(WAIT_S)


def act(links: LinksConfig, actor_id: str) -> None:
    """An actor that plays whatever it is given, until it is told to stop or killed."""

    async def play() -> None:
        sender = TreeSender(links, actor_id=actor_id, capacity=4)
        await sender.start()
        try:
            while True:
                assignment = await sender.next_assignment(WAIT_S)
                await asyncio.sleep(0.01)
                await sender.send(assignment.assignment_id, random_tree(np.random.default_rng(0)))
        except Stopped:
            await sender.flush(WAIT_S)
        await sender.close()

    asyncio.run(play())


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT_S)


def test_a_killed_learner_loses_and_repeats_nothing(links: LinksConfig, tmp_path: Path) -> None:
    path = tmp_path / "journal"

    async def deliver() -> None:
        sender = TreeSender(links, actor_id="actor", capacity=TREES)
        await sender.start()
        learner = processes.Process(target=learn, args=(links, path), daemon=True)
        learner.start()
        granted = [await sender.next_assignment(WAIT_S) for _ in range(TREES)]
        for assignment in granted:
            await sender.send(assignment.assignment_id, random_tree(np.random.default_rng(assignment.seed)))
        for some in (TREES // 3, 2 * TREES // 3):
            async with asyncio.timeout(WAIT_S):
                while len(journaled(path)) < some:
                    await asyncio.sleep(0.01)
            kill(learner)
            learner = processes.Process(target=learn, args=(links, path), daemon=True)
            learner.start()
        await sender.flush(WAIT_S)
        await sender.close()
        kill(learner)

    asyncio.run(deliver())
    assert sorted(journaled(path)) == [("actor", number) for number in range(TREES)]


def test_a_killed_actor_leaves_its_work_to_the_next(links: LinksConfig) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=1.0)
    learner = TreeReceiver(links, accept=lambda delivery, frames: None, run_id="run")
    learner.start()
    try:
        learner.offer(Assignment(assignment_id=i, env_id=ENV_ID, seed=i, group_size=1) for i in range(40))
        first = processes.Process(target=act, args=(links, "first"), daemon=True)
        first.start()
        got = [learner.get(WAIT_S) for _ in range(10)]
        kill(first)
        second = processes.Process(target=act, args=(links, "second"), daemon=True)
        second.start()
        while {d.assignment_id for d in got} != set(range(40)):
            got.append(learner.get(WAIT_S))
        assert {d.actor_id for d in got} == {"first", "second"}
        assert learner.outstanding() == 0
        learner.stop_actors("enough")
        second.join(WAIT_S)
        assert second.exitcode == 0
        assert learner.lost_actors == 1
    finally:
        learner.close()
