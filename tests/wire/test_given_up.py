"""Tasks that take their actors down, and actors that are to get no more tasks."""

import asyncio
import contextlib

import numpy as np

from tests.trees import long_tree
from trieline.wire.config import LinksConfig
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeReceiver, TreeSender

WAIT_S = 10.0


def receiver(closing: contextlib.ExitStack, links: LinksConfig) -> TreeReceiver:
    made = TreeReceiver(links, accept=lambda delivery, frames: None, run_id="run", max_losses=3)
    closing.callback(made.close)
    made.start()
    return made


async def sender(closing: contextlib.AsyncExitStack, links: LinksConfig, actor_id: str) -> TreeSender:
    made = TreeSender(links, actor_id=actor_id, capacity=1)
    closing.push_async_callback(made.close)
    await made.start()
    return made


def test_a_task_over_which_a_third_actor_is_stuck_is_given_up(
    closing: contextlib.ExitStack, links: LinksConfig
) -> None:
    learner = receiver(closing, links)
    learner.offer([Assignment(assignment_id=0, env_id="test/Deadly-v0", seed=9)])

    async def leave(actor_id: str, *, stuck: bool) -> None:
        async with contextlib.AsyncExitStack() as stack:
            actor = await sender(stack, links, actor_id)
            assert (await actor.next_assignment(WAIT_S)).seed == 9
            await actor.close(stuck=stuck)

    async def play() -> None:
        for number in range(5):
            await leave(f"stopped {number}", stuck=False)
        for number in range(3):
            assert learner.take_given_up() == []
            assert learner.outstanding() == 1
            await leave(f"actor {number}", stuck=True)
        async with asyncio.timeout(WAIT_S):
            while learner.outstanding():
                await asyncio.sleep(0.01)

    asyncio.run(play())
    assert [task.seed for task in learner.take_given_up()] == [9]


def test_what_nobody_wants_any_more_is_not_begun(closing: contextlib.ExitStack, links: LinksConfig) -> None:
    learner = receiver(closing, links)

    def evaluate(*ids: int) -> None:
        learner.offer(
            [Assignment(assignment_id=i, env_id="test/Long-v0", seed=i, purpose="evaluate") for i in ids]
        )

    async def play() -> None:
        async with contextlib.AsyncExitStack() as stack:
            actor = await sender(stack, links, "actor")
            evaluate(0, 1, 2)
            begun = await actor.next_assignment(WAIT_S)
            learner.withdraw([0, 1, 2])
            evaluate(3)
            await actor.send(begun.assignment_id, long_tree(np.random.default_rng(0), num_tokens=64))
            assert (await actor.next_assignment(WAIT_S)).seed == 3

    asyncio.run(play())
    assert learner.get(WAIT_S, "evaluate").assignment_id == 0


def test_an_actor_that_is_set_aside_is_granted_nothing_and_may_bring_what_it_holds(
    closing: contextlib.ExitStack, links: LinksConfig
) -> None:
    learner = receiver(closing, links)

    async def play() -> None:
        async with contextlib.AsyncExitStack() as stack:
            bad = await sender(stack, links, "bad")
            learner.offer([Assignment(assignment_id=0, env_id="test/Long-v0", seed=0)])
            held = await bad.next_assignment(WAIT_S)
            learner.set_aside("bad")
            assert learner.is_set_aside("bad")
            learner.offer([Assignment(assignment_id=1, env_id="test/Long-v0", seed=1)])
            await bad.send(held.assignment_id, long_tree(np.random.default_rng(0), num_tokens=64))
            await bad.flush(WAIT_S)
            good = await sender(stack, links, "good")
            assert (await good.next_assignment(WAIT_S)).seed == 1, "though the other one was free first"

    asyncio.run(play())
    assert learner.get(WAIT_S).actor_id == "bad"
