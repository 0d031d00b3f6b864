import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from msgspec.structs import replace

from tests.trees import long_tree, random_tree
from tests.wire.raw_peer import connect_raw, frames
from tests.wire.raw_router import RawRouter, raw_router
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, KeysError, PeerTimeoutError, TreeError, WireError
from trieline.wire.messages import (
    PROTOCOL_VERSION,
    Acknowledge,
    ActorGoodbye,
    ActorHeartbeat,
    ActorHello,
    ActorToLearner,
    Assignment,
    AssignmentFailed,
    LearnerToActor,
    Reject,
    Stop,
    TreeDelivery,
)
from trieline.wire.trajectory_link import Stopped, TreeReceiver, TreeSender
from trieline.wire.tree import TrajectoryTree
from trieline.wire.tree_admission import Expectation
from trieline.wire.tree_receiver import SHARE_MESSAGES

WAIT_S = 10.0
RUN_ID = "run"


def tree(seed: int = 0) -> TrajectoryTree:
    """Of 40 tokens at most."""
    return random_tree(np.random.default_rng(seed), max_entropy=np.log(40))


def assignments(*ids: int) -> list[Assignment]:
    return [Assignment(assignment_id=i, env_id="test/Random-v0", seed=i, group_size=1) for i in ids]


def receiver(
    closing: contextlib.ExitStack,
    links: LinksConfig,
    *,
    accept: Callable[[TreeDelivery], None] = lambda delivery: None,
    expectation: Expectation | None = None,
    run_id: str = RUN_ID,
    already_accepted: Iterable[tuple[str, int]] = (),
) -> TreeReceiver:
    made = TreeReceiver(
        links,
        accept=lambda delivery, frames: accept(delivery),
        run_id=run_id,
        expectation=expectation,
        already_accepted=already_accepted,
    )
    closing.callback(made.close)
    made.start()
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition))


@contextlib.asynccontextmanager
async def sender(links: LinksConfig, actor_id: str = "actor", capacity: int = 4) -> Any:
    made = TreeSender(links, actor_id=actor_id, capacity=capacity)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


class RawActor:
    """A DEALER that says what a test wants it to say."""

    def __init__(self, closing: contextlib.ExitStack, links: LinksConfig) -> None:
        context = closing.enter_context(zmq.Context())
        self._socket = closing.enter_context(context.socket(zmq.DEALER))
        self._socket.linger = 0
        self._socket.connect(links.trajectories)

    def say(self, message: object) -> None:
        self.say_frames(encode(message))

    def say_frames(self, frames: Any) -> None:
        self._socket.send_multipart(frames)

    def hear(self) -> Any:
        assert self._socket.poll(int(WAIT_S * 1000)), "the learner said nothing"
        return decode(self._socket.recv_multipart(), LearnerToActor, max_bytes=1 << 20)

    def hear_acknowledged(self, count: int) -> list[int]:
        """The next sequence numbers that are acknowledged, past whatever else is said."""
        numbers: list[int] = []
        while len(numbers) < count:
            heard = self.hear()
            if isinstance(heard, Acknowledge):
                numbers += heard.sequence_numbers
        return numbers

    def hears_nothing(self) -> bool:
        return not self._socket.poll(200)


def delivery(
    number: int,
    *,
    actor_id: str = "raw",
    assignment_id: int | None = None,
    of: TrajectoryTree | None = None,
    run_id: str = RUN_ID,
) -> TreeDelivery:
    return TreeDelivery(
        actor_id=actor_id,
        sequence_number=number,
        assignment_id=number if assignment_id is None else assignment_id,
        tree=of or tree(number),
        run_id=run_id,
    )


def test_assignments_come_and_trees_go(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    journal: list[TreeDelivery] = []
    learner = receiver(closing, links, accept=journal.append, expectation=Expectation(vocab_size=40))
    learner.offer(assignments(*range(10)))
    assert learner.outstanding() == 10

    async def act() -> None:
        async with sender(links, capacity=3) as actor:
            actor.running_episodes = 3
            for number in range(10):
                assignment = await actor.next_assignment(WAIT_S)
                assert await actor.send(assignment.assignment_id, tree(assignment.assignment_id)) == number
            await actor.flush(WAIT_S)
            await until(lambda: learner.actors()["actor"].running_episodes == 3)
            assert actor.rejected == 0

    asyncio.run(act())
    assert learner.outstanding() == 0
    got = [learner.get(WAIT_S) for _ in range(10)]
    assert [d.sequence_number for d in got] == list(range(10))
    assert [d.tree.task_id for d in got] == [tree(d.assignment_id).task_id for d in got]
    assert len(journal) == 10
    wait_until(lambda: not learner.actors())
    assert (learner.duplicates, learner.rejected, learner.malformed, learner.lost_actors) == (0, 0, 0, 0)


def test_no_more_assignments_than_fit_the_actor(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(*range(5)))

    async def act() -> None:
        async with sender(links, capacity=2) as actor:
            first = await actor.next_assignment(WAIT_S)
            await actor.next_assignment(WAIT_S)
            with pytest.raises(PeerTimeoutError, match=r"actor waited 0.3 s for an assignment.*connected"):
                await actor.next_assignment(0.3)
            await actor.send(first.assignment_id, tree())
            assert (await actor.next_assignment(WAIT_S)).assignment_id == 2

    asyncio.run(act())


def test_repeats_are_acknowledged_and_left_out(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    journal: list[TreeDelivery] = []
    learner = receiver(closing, links, accept=journal.append, already_accepted=[("raw", 7), ("raw", 0)])
    actor = RawActor(closing, links)
    for number in (1, 1, 7, 3, 1):
        actor.say(delivery(number))
    assert actor.hear_acknowledged(5) == [1, 1, 7, 3, 1]
    assert [d.sequence_number for d in journal] == [1, 3]
    assert learner.duplicates == 3
    assert [learner.get(WAIT_S).sequence_number for _ in range(2)] == [1, 3]


def test_assignments_of_a_lost_actor_go_first_to_others(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=1.0)
    learner = receiver(closing, links)
    learner.offer(assignments(*range(6)))
    killed = RawActor(closing, links)
    killed.say(ActorHello(actor_id="killed", capacity=3))
    assert [a.assignment_id for a in killed.hear().assignments] == [0, 1, 2]
    killed.say(delivery(1, actor_id="killed"))
    assert killed.hear_acknowledged(1) == [1]

    async def act() -> None:
        # Its free place was filled when its tree came; then it was never heard again.
        async with sender(links, actor_id="other", capacity=1) as actor:
            for expected in (4, 0, 2, 3, 5):
                assignment = await actor.next_assignment(WAIT_S)
                assert assignment.assignment_id == expected
                await until(lambda: learner.lost_actors == 1)
                await actor.send(assignment.assignment_id, tree(expected))
            await actor.flush(WAIT_S)

    asyncio.run(act())
    assert learner.lost_actors == 1
    assert learner.outstanding() == 0
    # A late tree of the lost actor is data all the same.
    killed.say(delivery(2, actor_id="killed"))
    assert killed.hear_acknowledged(1) == [2]


def test_goodbye_gives_assignments_back_at_once(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0, 1))

    async def act() -> None:
        async with sender(links, actor_id="first", capacity=2) as actor:
            await actor.next_assignment(WAIT_S)
        async with sender(links, actor_id="second", capacity=2) as actor:
            assert (await actor.next_assignment(WAIT_S)).assignment_id == 0

    asyncio.run(act())
    assert learner.lost_actors == 0


def test_a_grant_that_never_arrived_is_granted_again(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=1.0)
    learner = receiver(closing, links)
    learner.offer(assignments(0, 1))
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="raw", capacity=2))
    assert len(actor.hear().assignments) == 2
    deadline = time.monotonic() + WAIT_S
    while actor.hears_nothing():
        assert time.monotonic() < deadline
        actor.say(ActorHeartbeat(actor_id="raw", capacity=2, open_assignments=[1]))
    assert [a.assignment_id for a in actor.hear().assignments] == [0]


def test_a_heartbeat_is_enough_for_a_learner_that_knows_nobody(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(*range(5)))
    actor = RawActor(closing, links)
    # Two of its three places are taken by what an earlier learner had granted.
    actor.say(ActorHeartbeat(actor_id="raw", capacity=3, open_assignments=[100, 101]))
    assert [a.assignment_id for a in actor.hear().assignments] == [0]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_nothing_is_lost_over_a_restart_of_the_learner(
    transport: str, links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    if transport == "tcp":
        links = msgspec.structs.replace(links, trajectories=free_loopback_address())
    journal: list[tuple[str, int]] = []

    def accept(delivery: TreeDelivery) -> None:
        journal.append((delivery.actor_id, delivery.sequence_number))

    async def act() -> None:
        first = receiver(closing, links, accept=accept)
        first.offer(assignments(0, 1, 2))
        async with sender(links, capacity=3) as actor:
            held = [await actor.next_assignment(WAIT_S) for _ in range(3)]
            await actor.send(held[0].assignment_id, tree(0))
            await actor.flush(WAIT_S)
            await asyncio.to_thread(first.close)
            await actor.send(held[1].assignment_id, tree(1))
            with pytest.raises(PeerTimeoutError, match="acknowledgement of trees"):
                await actor.flush(0.3)
            second = receiver(closing, links, accept=accept, already_accepted=list(journal))
            second.offer(assignments(3))
            await actor.send(held[2].assignment_id, tree(2))
            assert (await actor.next_assignment(WAIT_S)).assignment_id == 3
            await actor.send(3, tree(3))
            await actor.flush(WAIT_S)
            assert second.outstanding() == 0
            assert set(second.actors()) == {"actor"}
            second.close()

    asyncio.run(act())
    assert sorted(journal) == [("actor", number) for number in range(4)]


def test_a_learner_hears_hello_and_then_the_trees_in_order_however_late_its_actor_notices_it(
    links: LinksConfig,
) -> None:
    def trees_heard(router: RawRouter, count: int) -> list[int | str]:
        """What comes up to that many trees: their numbers, and what else it is."""
        heard: list[int | str] = []
        while sum(isinstance(one, int) for one in heard) < count:
            message = decode(router.hear(), ActorToLearner, max_bytes=1 << 20)
            if isinstance(message, TreeDelivery):
                heard.append(message.sequence_number)
            elif not isinstance(message, ActorHeartbeat):
                heard.append(type(message).__name__)
        return heard

    async def act() -> None:
        async with sender(links) as actor:
            with raw_router(links.trajectories) as first:
                for number in range(2):
                    await actor.send(number, tree(number))
                assert await asyncio.to_thread(trees_heard, first, 2) == ["ActorHello", 0, 1]
            with raw_router(links.trajectories) as second:
                # The actor is busy, and finishes a tree before it looks at its link again.
                second.wait_connected()
                await actor.send(2, tree(2))
                assert await asyncio.to_thread(trees_heard, second, 3) == ["ActorHello", 0, 1, 2]

    asyncio.run(act())


def test_trees_for_another_run_are_refused_and_its_actor_goes_on(
    links: LinksConfig, closing: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    journal: list[TreeDelivery] = []

    async def act() -> None:
        yesterday = receiver(closing, links, run_id="yesterday")
        yesterday.offer(assignments(0, 1))
        async with sender(links, capacity=2) as actor:
            for _ in range(2):
                await actor.next_assignment(WAIT_S)
            await asyncio.to_thread(yesterday.close)
            await actor.send(0, tree(0))
            today = receiver(closing, links, accept=journal.append)
            today.offer(assignments(0, 1))
            await actor.flush(WAIT_S)
            assert (actor.rejected, today.rejected) == (1, 1)
            await actor.send(1, tree(1))
            await actor.flush(WAIT_S)
            assert (actor.rejected, today.rejected) == (2, 2)
            assert today.outstanding() == 2
            # The same ids once more, and without waiting until the actor's heartbeats lack the others.
            for expected in (2, 3):
                number = await actor.send((await actor.next_assignment(WAIT_S)).assignment_id, tree())
                assert number == expected
            await actor.flush(WAIT_S)
            assert today.outstanding() == 0
            today.close()

    asyncio.run(act())
    assert sorted((d.assignment_id, d.run_id) for d in journal) == [(0, RUN_ID), (1, RUN_ID)]
    assert "expected a tree of run 'run', got one of run 'yesterday'" in caplog.text
    assert caplog.text.count("trees that nobody asked for") == 1


def test_a_tree_for_another_run_does_not_close_an_assignment_of_this_one(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0))
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="raw", capacity=1))
    actor.hear()
    for number, message in enumerate((delivery(0, run_id="old"), delivery(1, assignment_id=0, run_id=""))):
        actor.say(message)
        answer = actor.hear()
        assert isinstance(answer, Reject)
        assert answer.sequence_number == number
        # This actor took no grant of an id that it worked on already.
        assert [a.assignment_id for a in actor.hear().assignments] == [0]
    actor.say_frames(encode(delivery(2, assignment_id=0, run_id="old"))[:-1])
    assert isinstance(actor.hear(), Reject)
    assert learner.outstanding() == 1


def test_what_an_actor_gives_up_of_another_run_drops_no_assignment_of_this_one(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    async def act() -> None:
        yesterday = receiver(closing, links, run_id="yesterday")
        yesterday.offer(assignments(0))
        async with sender(links, capacity=1) as actor:
            await actor.next_assignment(WAIT_S)
            await asyncio.to_thread(yesterday.close)
            today = receiver(closing, links)
            today.offer(assignments(0))
            await until(lambda: "actor" in today.actors())
            actor.give_up(0, "too large")
            await until(lambda: today.rejected == 1)
            assert today.outstanding() == 1
            assignment = await actor.next_assignment(WAIT_S)
            await actor.send(assignment.assignment_id, tree())
            await actor.flush(WAIT_S)
            assert today.get(WAIT_S).run_id == RUN_ID
            assert (today.outstanding(), today.rejected) == (0, 1)

    asyncio.run(act())


def test_an_older_actor_gives_up_without_saying_of_which_run(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0))
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="raw", capacity=1))
    actor.hear()
    actor.say(AssignmentFailed(actor_id="raw", assignment_id=0, reason="too large"))
    wait_until(lambda: learner.outstanding() == 0)


def test_no_more_trees_than_were_granted(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    journal: list[TreeDelivery] = []
    learner = receiver(closing, links, accept=journal.append)
    learner.offer(assignments(10, 11))
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="raw", capacity=2))
    assert [a.assignment_id for a in actor.hear().assignments] == [10, 11]
    # Its own, never granted, another's, its own again under a new number.
    actor.say(delivery(0, assignment_id=10))
    assert actor.hear_acknowledged(1) == [0]
    for number, owner, assignment_id in ((1, "raw", 99), (2, "other", 11), (3, "raw", 10)):
        actor.say(delivery(number, actor_id=owner, assignment_id=assignment_id))
        answer = actor.hear()
        assert isinstance(answer, Reject)
        assert answer.sequence_number == number
        expected = f"expected one tree of each assignment granted to its actor, got one of {assignment_id}"
        assert answer.reason == expected
    assert learner.rejected == 3
    # A repeat of what is safe.
    actor.say(delivery(0, assignment_id=10))
    assert actor.hear_acknowledged(1) == [0]
    assert [d.sequence_number for d in journal] == [0]


def test_after_a_restart_each_actor_may_bring_a_tree_of_an_earlier_assignment_once(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    journal: list[TreeDelivery] = []
    learner = receiver(closing, links, accept=journal.append)
    learner.offer(assignments(1_000))
    actor = RawActor(closing, links)
    for number, (actor_id, assignment_id) in enumerate([("a", 7), ("b", 7), ("a", 7), ("a", 8)]):
        actor.say(delivery(number, actor_id=actor_id, assignment_id=assignment_id))
    assert actor.hear_acknowledged(3) == [0, 1, 3]
    assert [d.sequence_number for d in journal] == [0, 1, 3]
    assert learner.rejected == 1


def test_trees_that_break_an_invariant_are_rejected_by_reason(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    def accept(delivery: TreeDelivery) -> None:
        if delivery.tree.task_id == "unwanted":
            msg = "the journal does not want it"
            raise TreeError(msg)

    learner = receiver(
        closing,
        links,
        accept=accept,
        expectation=Expectation(vocab_size=40, max_tree_tokens=links.max_tree_tokens),
    )
    actor = RawActor(closing, links)
    wrong = replace(tree(), leaf_nodes=tree().leaf_nodes + 100)
    foreign = replace(tree(), token_ids=tree().token_ids + 40)
    unwanted = replace(tree(), task_id="unwanted")
    long = long_tree(np.random.default_rng(0), num_tokens=links.max_tree_tokens + 1)
    deep = long_tree(np.random.default_rng(0), num_tokens=links.max_tree_tokens, num_leaves=1, vocab_size=40)
    leaves = np.full(3201, deep.num_nodes - 1, np.int32)
    bomb = replace(deep, leaf_nodes=leaves, leaf_terminated=np.ones(3201, np.bool_), leaf_causes=("",) * 3201)
    for number, (bad, reason) in enumerate(
        [
            (wrong, "leaf_nodes"),
            (foreign, "token_ids in [0, 40)"),
            (unwanted, "the journal does not want it"),
            (long, "at most 10000 tokens, got 10001"),
            (bomb, f"at most 32000000 tokens together, got {bomb.num_sequence_tokens}"),
        ]
    ):
        actor.say(delivery(number, of=bad))
        answer = actor.hear()
        assert isinstance(answer, Reject)
        assert answer.sequence_number == number
        assert reason in answer.reason
    assert learner.rejected == 5
    actor.say(delivery(5))
    assert actor.hear() == Acknowledge(sequence_numbers=[5])
    assert learner.get(WAIT_S).sequence_number == 5


def test_a_tree_that_does_not_fit_its_assignment_or_the_published_version_is_rejected(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.newest_version = 3
    learner.offer(assignments(*range(4)))
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="raw", capacity=4))
    assert len(actor.hear().assignments) == 4
    sampled = tree().policy_versions >= 0
    future = replace(tree(), policy_versions=np.where(sampled, 4, -1).astype(np.int32))
    for number, (bad, reason) in enumerate(
        [
            (replace(tree(), env_id="evil/Env-v0"), "expected a tree of 'test/Random-v0'"),
            (replace(tree(), level=99), "expected level 0 as assigned, got 99"),
            (future, "policy versions up to 3, the newest, got version 4"),
        ]
    ):
        actor.say(delivery(number, of=bad))
        answer = actor.hear()
        assert isinstance(answer, Reject)
        assert reason in answer.reason
    learner.newest_version = 4
    actor.say(delivery(3, of=future))
    assert actor.hear_acknowledged(1) == [3]
    assert (learner.rejected, learner.outstanding()) == (3, 0)


def raw_bytes(frame: InFrame) -> bytes:
    return frame.bytes if isinstance(frame, zmq.Frame) else bytes(frame)


def test_accept_gets_the_frames_that_a_tree_came_in(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    came: list[tuple[TreeDelivery, list[bytes]]] = []

    def accept(delivery: TreeDelivery, frames: Sequence[InFrame]) -> None:
        came.append((delivery, [raw_bytes(frame) for frame in frames]))

    learner = TreeReceiver(links, accept=accept, run_id=RUN_ID)
    closing.callback(learner.close)
    learner.start()
    actor = RawActor(closing, links)
    big = long_tree(np.random.default_rng(0), num_tokens=links.max_tree_tokens)
    for number, of in enumerate((tree(), big)):
        actor.say(delivery(number, of=of))
    assert actor.hear_acknowledged(2) == [0, 1]
    assert [d.sequence_number for d, _ in came] == [0, 1]
    for message, parts in came:
        assert parts == [bytes(part) for part in encode(message)]


def test_a_peer_that_floods_is_cut_off_and_the_others_are_served(
    links: LinksConfig, closing: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, going_on = threading.Event(), threading.Event()
    closing.callback(going_on.set)

    def accept(delivery: TreeDelivery) -> None:
        stuck.set()
        assert going_on.wait(WAIT_S)

    learner = receiver(closing, links, accept=accept)
    actor = RawActor(closing, links)
    actor.say(delivery(0))
    assert stuck.wait(WAIT_S)
    flood = connect_raw(links.trajectories)
    closing.callback(flood.close)
    share = SHARE_MESSAGES * links.max_message_bytes
    junk = b"".join(frames([bytes(1 << 20)]) for _ in range(4 * share >> 20))
    # Nobody reads, and yet ZeroMQ takes it all.
    flood.sendall(junk)
    going_on.set()
    assert actor.hear_acknowledged(1) == [0]
    actor.say(ActorHello(actor_id="raw", capacity=1))
    learner.offer(assignments(1))
    assert [a.assignment_id for a in actor.hear().assignments] == [1]
    assert flood.recv(1) == b""
    wait_until(lambda: learner.flooded > 0)
    assert learner.malformed <= share >> 20
    assert caplog.text.count("messages beyond the share of a peer") == 1


def test_an_actor_sends_no_more_than_its_learner_keeps_of_it(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    """More than its share waits to be sent, as after a long pause of the learner."""
    count = 40
    stuck, going_on = threading.Event(), threading.Event()
    closing.callback(going_on.set)

    def accept(delivery: TreeDelivery) -> None:
        stuck.set()
        assert going_on.wait(WAIT_S)

    expectation = Expectation(max_tree_tokens=1_000_000)
    learner = receiver(closing, links, accept=accept, expectation=expectation)
    learner.offer(assignments(*range(count)))
    actors_links = msgspec.structs.replace(links, max_tree_tokens=1_000_000)

    async def act() -> None:
        async with sender(actors_links, capacity=count) as actor:
            big = long_tree(np.random.default_rng(0), num_tokens=200_000)
            big = replace(big, env_id="test/Random-v0")
            for number in range(count):
                assert (await actor.next_assignment(WAIT_S)).assignment_id == number
                assert await actor.send(number, big) == number
            await until(stuck.is_set)
            going_on.set()
            await actor.flush(WAIT_S)

    asyncio.run(act())
    assert sorted(learner.get(WAIT_S).assignment_id for _ in range(count)) == list(range(count))
    assert learner.outstanding() == 0
    assert learner.flooded == learner.duplicates == 0, "it was never cut off, and said nothing twice"


def test_whoever_comes_and_goes_is_counted_and_does_not_fill_the_log(
    links: LinksConfig, closing: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    learner = receiver(closing, links)
    actor = RawActor(closing, links)
    for number in range(1_000):
        actor.say(ActorHello(actor_id=f"a{number}", capacity=1))
        actor.say(AssignmentFailed(actor_id=f"a{number}", assignment_id=number, reason="\x1b[2J" * 600))
        actor.say_frames([b"garbage"])
        actor.say(ActorGoodbye(actor_id=f"a{number}"))
    actor.say(delivery(0))
    assert actor.hear_acknowledged(1) == [0]
    assert (learner.malformed, learner.rejected) == (1_000, 1_000)
    assert len(caplog.text) < 20_000
    assert "\x1b" not in caplog.text


def test_a_rejected_tree_closes_its_assignment(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links, expectation=Expectation(vocab_size=1))
    learner.offer(assignments(0))

    async def act() -> None:
        async with sender(links) as actor:
            await actor.send((await actor.next_assignment(WAIT_S)).assignment_id, tree())
            await actor.flush(WAIT_S)
            assert actor.rejected == 1

    asyncio.run(act())
    assert (learner.rejected, learner.outstanding()) == (1, 0)


def test_a_tree_too_large_to_send_is_given_up(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0, 1))

    async def act() -> None:
        async with sender(links) as actor:
            for number, num_tokens in enumerate((300_000, links.max_tree_tokens + 1)):
                big = long_tree(np.random.default_rng(0), num_tokens=num_tokens)
                assert await actor.send(number, big) is None
            assert actor.rejected == 2
            await until(lambda: learner.rejected == 2)

    asyncio.run(act())


def test_a_tree_too_large_for_the_learner_is_given_up_where_only_the_learner_says_so(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0, 1))
    actors_links = msgspec.structs.replace(
        links, max_message_bytes=100 * links.max_message_bytes, max_tree_tokens=100 * links.max_tree_tokens
    )

    async def act() -> None:
        async with sender(actors_links) as actor:
            for number, num_tokens in enumerate((1_000_000, 100)):
                assignment = await actor.next_assignment(WAIT_S)
                assert assignment.assignment_id == number
                big = long_tree(np.random.default_rng(0), num_tokens=num_tokens)
                big = replace(big, env_id=assignment.env_id)
                await actor.send(assignment.assignment_id, big)
            await actor.flush(WAIT_S)
            assert actor.rejected == 1
            await until(lambda: learner.outstanding() == 0)

    asyncio.run(act())
    assert learner.rejected == 1
    assert learner.get(WAIT_S).assignment_id == 1


def test_malformed_messages_are_counted_and_the_link_goes_on(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    actor = RawActor(closing, links)
    actor.say_frames([b"garbage"])
    actor.say_frames([b""] * 100)
    cut = encode(delivery(5))
    actor.say_frames(cut[:-1])
    answer = actor.hear()
    assert isinstance(answer, Reject)
    assert answer.sequence_number == 5
    assert learner.malformed == 3
    actor.say(delivery(6))
    assert actor.hear() == Acknowledge(sequence_numbers=[6])


def test_a_tree_a_little_too_large_is_refused_by_name(
    links: LinksConfig, closing: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    learner = receiver(closing, links)
    actor = RawActor(closing, links)
    actor.say_frames([encode(delivery(3))[0], bytes(links.max_message_bytes + 1)])
    answer = actor.hear()
    assert isinstance(answer, Reject)
    assert answer.sequence_number == 3
    assert f"expected at most {links.max_message_bytes} bytes, got" in answer.reason
    assert learner.malformed == 1
    assert answer.reason in caplog.text


def test_a_frame_far_too_large_closes_its_connection_only(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    hostile, actor = RawActor(closing, links), RawActor(closing, links)
    hostile.say_frames([bytes(2 * links.max_message_bytes)])
    assert hostile.hears_nothing()
    assert learner.malformed == 0
    actor.say(delivery(0))
    assert actor.hear() == Acknowledge(sequence_numbers=[0])


def test_stop_reaches_actors_of_now_and_later(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0))

    async def act() -> None:
        async with sender(links, actor_id="early") as early:
            assignment = await early.next_assignment(WAIT_S)
            waits = asyncio.create_task(early.next_assignment(WAIT_S))
            learner.stop_actors("enough learned")
            with pytest.raises(Stopped, match="enough learned"):
                await waits
            # What was begun may still be handed in.
            await early.send(assignment.assignment_id, tree())
            await early.flush(WAIT_S)
            async with sender(links, actor_id="late") as late:
                with pytest.raises(Stopped, match="enough learned"):
                    await late.next_assignment(WAIT_S)

    asyncio.run(act())
    assert learner.get(WAIT_S).actor_id == "early"


def test_an_actor_that_connects_again_is_told_to_stop_again(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    learner = receiver(closing, links)
    learner.stop_actors("enough learned")
    for _ in range(2):
        actor = RawActor(closing, links)
        actor.say(ActorHello(actor_id="raw", capacity=1))
        assert actor.hear() == Stop(reason="enough learned")


def test_another_protocol_is_told_to_stop(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    actor = RawActor(closing, links)
    actor.say(ActorHello(actor_id="old", capacity=1, protocol=0))
    answer = actor.hear()
    assert isinstance(answer, Stop)
    assert f"expected protocol {PROTOCOL_VERSION} as of the learner, got 0" in answer.reason
    assert not learner.actors()


def test_get_says_who_was_waited_for(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    learner = receiver(closing, links)
    learner.offer(assignments(0, 1, 2))
    with pytest.raises(PeerTimeoutError, match=r"within 0.1 s: 0 actors live .*3 assignments outstanding"):
        learner.get(0.1)
    RawActor(closing, links).say(ActorHeartbeat(actor_id="raw", running_episodes=2, capacity=1))
    wait_until(lambda: bool(learner.actors()))
    with pytest.raises(PeerTimeoutError, match=r"1 actors live .raw runs 2 episodes"):
        learner.get(0.1)


def test_a_failing_journal_stops_the_receiver_and_says_so(
    links: LinksConfig, closing: contextlib.ExitStack
) -> None:
    def accept(delivery: TreeDelivery) -> None:
        msg = "no space left on device"
        raise OSError(msg)

    learner = receiver(closing, links, accept=accept)
    actor = RawActor(closing, links)
    actor.say(delivery(0))
    for _ in range(2):
        with pytest.raises(WireError, match="failed: no space left on device"):
            learner.get(WAIT_S)
    with pytest.raises(WireError, match="failed: no space left on device"):
        learner.offer(assignments(0))
    # Not acknowledged, so not lost.
    assert actor.hears_nothing()


def test_an_address_in_use_is_an_address_error(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    receiver(closing, links)
    with pytest.raises(AddressError, match="another process listens there"):
        receiver(closing, links)


def test_an_address_elsewhere_is_refused_before_anything_is_opened(links: LinksConfig) -> None:
    elsewhere = replace(links, trajectories="tcp://192.0.2.1:7701", keys="/no/such/folder")
    with pytest.raises(KeysError, match="reached from other machines, so it needs keys"):
        TreeSender(elsewhere, actor_id="a", capacity=1)


def test_close_may_come_twice_and_without_start(links: LinksConfig) -> None:
    made = TreeReceiver(links, accept=lambda delivery, frames: None, run_id=RUN_ID)
    made.close()
    made.close()

    async def act() -> None:
        actor = TreeSender(links, actor_id="a", capacity=1)
        await actor.close()
        await actor.start()
        await actor.close()
        await actor.close()

    asyncio.run(act())
