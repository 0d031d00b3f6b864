import pytest

from trieline.wire.inbox import MESSAGE_COST, Inbox


def drained(inbox: Inbox) -> list[tuple[bytes, bytes]]:
    taken = []
    while inbox:
        peer, frames = inbox.take()
        (frame,) = frames
        assert isinstance(frame, bytes)
        taken.append((peer, frame))
    return taken


def test_peers_are_served_in_turn_and_each_in_its_order() -> None:
    inbox = Inbox(most_bytes=1 << 20, share_bytes=1 << 20)
    for peer, text in ((b"a", b"1"), (b"a", b"2"), (b"a", b"3"), (b"b", b"4"), (b"c", b"5"), (b"b", b"6")):
        assert inbox.add(peer, [text])
    assert drained(inbox) == [
        (b"a", b"1"),
        (b"b", b"4"),
        (b"c", b"5"),
        (b"a", b"2"),
        (b"b", b"6"),
        (b"a", b"3"),
    ]


def test_a_peer_has_its_share_and_no_more() -> None:
    size = 100 + MESSAGE_COST
    inbox = Inbox(most_bytes=100 * size, share_bytes=2 * size)
    message = [bytes(60), bytes(40)]
    assert [inbox.add(b"a", message) for _ in range(4)] == [True, True, False, False]
    assert inbox.add(b"b", message)
    inbox.take()
    assert inbox.add(b"a", message)
    assert not inbox.add(b"a", [b""])


def test_all_peers_together_have_a_bound() -> None:
    inbox = Inbox(most_bytes=10 * MESSAGE_COST, share_bytes=10 * MESSAGE_COST)
    added = [inbox.add(f"peer {number}".encode(), [b""]) for number in range(1_000)]
    assert added == [True] * 10 + [False] * 990
    assert len(drained(inbox)) == 10
    assert inbox.add(b"late", [b""])


def test_nothing_stays_of_peers_that_were_served() -> None:
    inbox = Inbox(most_bytes=1 << 20, share_bytes=1 << 20)
    for number in range(10_000):
        assert inbox.add(f"peer {number}".encode(), [b"x"])
        inbox.take()
    assert not inbox
    assert not inbox._waiting
    assert not inbox._bytes_of
    assert inbox._bytes == 0


def test_taking_from_an_empty_one_is_an_error() -> None:
    with pytest.raises(IndexError):
        Inbox(most_bytes=1, share_bytes=1).take()
