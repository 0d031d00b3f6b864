import numpy as np
import pytest

from trieline.learner.policy_server.errors import OverloadedError
from trieline.learner.policy_server.waiting import WaitingRequests
from trieline.wire.messages import GenerateRequest, Sampling


def request(number: int) -> GenerateRequest:
    return GenerateRequest(request_id=number, prompt=np.zeros(1, np.int32), sampling=Sampling())


def taken(waiting: WaitingRequests) -> list[tuple[bytes, int]]:
    tickets = []
    while waiting:
        peer, one = waiting.take()
        tickets.append((peer, one.request_id))
    return tickets


def test_peers_take_turns_each_with_its_oldest_first() -> None:
    waiting = WaitingRequests(100)
    for peer, count in ((b"many", 5), (b"few", 2), (b"one", 1)):
        for number in range(count):
            assert waiting.add(peer, request(number)) is None
    assert len(waiting) == 8
    assert taken(waiting) == [
        (b"many", 0),
        (b"few", 0),
        (b"one", 0),
        (b"many", 1),
        (b"few", 1),
        (b"many", 2),
        (b"many", 3),
        (b"many", 4),
    ]


def test_when_all_places_are_taken_whoever_has_most_gives_one_up() -> None:
    waiting = WaitingRequests(4)
    for number in range(4):
        waiting.add(b"many", request(number))
    with pytest.raises(OverloadedError, match="4 requests wait already, of at most 4"):
        waiting.add(b"many", request(4))
    assert waiting.add(b"other", request(7)) == (b"many", 3)
    assert waiting.add(b"other", request(8)) == (b"many", 2)
    # Two each: no share is larger.
    with pytest.raises(OverloadedError):
        waiting.add(b"other", request(9))
    assert waiting.add(b"third", request(0)) in {(b"many", 1), (b"other", 8)}
    assert len(waiting) == 4


def test_what_is_cancelled_or_drained_waits_no_more() -> None:
    waiting = WaitingRequests(10)
    for number in range(3):
        waiting.add(b"a", request(number))
    waiting.add(b"b", request(0))
    assert waiting.cancel((b"a", 1))
    assert not waiting.cancel((b"a", 1))
    assert not waiting.cancel((b"c", 0))
    assert waiting.cancel((b"b", 0))
    assert waiting.drain() == [(b"a", 0), (b"a", 2)]
    assert len(waiting) == 0
    assert waiting.drain() == []
