"""Connections that break while messages of theirs wait unread: the process that reads must live on.

libzmq aborts where it has stopped reading from a peer, the connection breaks, and a heartbeat of either end
comes up after that. An abort would end the tests, too, so each reader is a process of its own.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
import pytest
import zmq

from tests.trees import random_tree
from tests.wire.raw_peer import PING, connect_raw, frame, frames, send_until_stuck
from trieline.wire import sockets
from trieline.wire.codec import encode
from trieline.wire.config import LinksConfig
from trieline.wire.messages import TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver

WAIT_S = 30.0
TREES = 300
processes = multiprocessing.get_context("spawn")


def delivery_frames(number: int) -> list[bytes]:
    delivery = TreeDelivery(
        actor_id="killed",
        sequence_number=number,
        assignment_id=number,
        tree=random_tree(np.random.default_rng(number)),
        run_id="run",
    )
    return [bytes(part) for part in encode(delivery)]


def learn(links: LinksConfig, pipe: Connection) -> None:
    """A learner that is stuck in its first tree until it is told to go on, and says when a given one came."""
    going_on = threading.Event()

    def accept(delivery: TreeDelivery, frames: object) -> None:
        if not going_on.is_set():
            pipe.send("stuck")
            going_on.wait(WAIT_S)

    receiver = TreeReceiver(links, accept=accept, run_id="run")
    receiver.start()
    pipe.send("up")
    while (word := pipe.recv()) != "end":
        if word == "go on":
            going_on.set()
        else:
            while receiver.get(WAIT_S).sequence_number != word:
                pass
            pipe.send("came")
    receiver.close()


def send_trees(links: LinksConfig, pipe: Connection) -> None:
    """An actor, with ZeroMQ's heartbeats, that hands over as many trees as are taken and waits."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.heartbeat_ivl = 20
    # What is sent is with the kernel soon.
    dealer.sndhwm = 1
    dealer.connect(links.trajectories)
    pipe.send("up")
    for number in range(TREES):
        if not dealer.poll(1000, zmq.POLLOUT):
            break
        dealer.send_multipart(delivery_frames(number))
        # Now and then a heartbeat among them.
        threading.Event().wait(0.001)
    pipe.send("sent")
    pipe.recv()


@contextlib.contextmanager
def process(target: Callable[..., None], *arguments: object) -> Iterator[tuple[BaseProcess, Connection]]:
    ours, theirs = multiprocessing.Pipe()
    made = processes.Process(target=target, args=(*arguments, theirs), daemon=True)
    made.start()
    theirs.close()
    try:
        assert said(ours) == "up"
        yield made, ours
    finally:
        made.kill()
        made.join()


def said(pipe: Connection) -> object:
    assert pipe.poll(WAIT_S), "nothing was said"
    return pipe.recv()


def ends_well(made: BaseProcess, pipe: Connection) -> None:
    pipe.send("end")
    made.join(WAIT_S)
    assert made.exitcode == 0


def kill(made: BaseProcess) -> None:
    assert made.pid is not None
    os.kill(made.pid, signal.SIGKILL)
    made.join(WAIT_S)


def take_the_backlog(links: LinksConfig, learner: BaseProcess, to_learner: Connection) -> None:
    """Let the learner read what a killed actor has left, and a tree of another one."""
    # Whoever is greeted now comes after the end of the connection that broke.
    with contextlib.closing(connect_raw(links.trajectories)) as peer:
        to_learner.send("go on")
        to_learner.send(0)
        assert said(to_learner) == "came"
        peer.sendall(frames(delivery_frames(TREES)))
        to_learner.send(TREES)
        assert said(to_learner) == "came"
    ends_well(learner, to_learner)


def test_an_actor_killed_with_a_backlog_does_not_take_the_learner_along(links: LinksConfig) -> None:
    with process(learn, links) as (learner, to_learner), process(send_trees, links) as (actor, to_actor):
        assert said(to_learner) == "stuck"
        assert said(to_actor) == "sent"
        kill(actor)
        take_the_backlog(links, learner, to_learner)


def test_an_actor_killed_while_the_learner_was_stopped_does_not_take_it_along(links: LinksConfig) -> None:
    with process(learn, links) as (learner, to_learner), process(send_trees, links) as (actor, to_actor):
        assert said(to_learner) == "stuck"
        assert learner.pid is not None
        os.kill(learner.pid, signal.SIGSTOP)
        assert said(to_actor) == "sent"
        kill(actor)
        os.kill(learner.pid, signal.SIGCONT)
        take_the_backlog(links, learner, to_learner)


def own_socket(kind: int, handover: bool, links: LinksConfig, pipe: Connection) -> None:
    """Any socket of a link, bound and read only when it is told."""
    context = zmq.Context()
    made = context.socket(kind)
    sockets.limit(made, links, send_queue=10)
    if handover:
        made.router_handover = True
    if kind == zmq.SUB:
        made.subscribe(b"")
    sockets.bind(made, links.trajectories)
    pipe.send("up")
    while pipe.recv() != "end":
        # A publisher reads its subscriptions when it sends.
        if kind == zmq.PUB:
            made.send(b"news")
        else:
            while made.poll(200):
                made.recv_multipart()
        pipe.send("read")
    context.destroy(linger=0)


@pytest.mark.parametrize(
    ("kind", "peer_type"),
    [(zmq.ROUTER, b"DEALER"), (zmq.DEALER, b"DEALER"), (zmq.PUB, b"SUB"), (zmq.SUB, b"PUB")],
)
def test_a_peer_that_floods_and_pings_and_goes_takes_nobody_along(
    kind: int, peer_type: bytes, links: LinksConfig
) -> None:
    with process(own_socket, kind, False, links) as (reader, pipe):
        for _ in range(3):
            with contextlib.closing(connect_raw(links.trajectories, socket_type=peer_type)) as peer:
                send_until_stuck(peer, (frame(b"\x01topic") * 100 + PING) * 200)
            pipe.send("read")
            assert said(pipe) == "read"
        ends_well(reader, pipe)


def test_a_peer_whose_name_another_takes_over_takes_nobody_along(links: LinksConfig) -> None:
    with process(own_socket, zmq.ROUTER, True, links) as (reader, pipe):
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                first, second = (taker(stack, links.trajectories) for _ in range(2))
                for peer in (first, second):
                    peer.sendall(frame(b"me"))
                    pipe.send("read")
                    assert said(pipe) == "read"
                send_until_stuck(first, frame(b"still me") * 10)
                pipe.send("read")
                assert said(pipe) == "read"
        pipe.send("read")
        assert said(pipe) == "read"
        ends_well(reader, pipe)


def taker(stack: contextlib.ExitStack, address: str) -> socket.socket:
    return stack.enter_context(contextlib.closing(connect_raw(address, identity=b"name")))
