"""Frames and the two byte streams they travel on."""

import os
import socket
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.sandbox.channel import AttachChannel, ChannelClosedError, ChannelTimeoutError, PipeChannel
from trieline.envs.sandbox.inside import frames


def _reader(data: bytes):  # type: ignore[no-untyped-def]
    view = memoryview(data)

    def read(count: int) -> bytes:
        nonlocal view
        part, view = bytes(view[:count]), view[count:]
        return part

    return read


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()), st.integers(0, 1000))
def test_a_frame_comes_out_as_it_went_in(header: dict[str, object], length: int) -> None:
    assert frames.unpack(_reader(frames.pack(header, length)), 1000) == (header, length)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack(">II", 1 << 30, 0), "header of at most"),
        (struct.pack(">II", 2, 1001) + b"{}", "body of at most"),
        (struct.pack(">II", 2, 0) + b"[]", "JSON object"),
        (struct.pack(">II", 2, 0) + b"{x", "JSON header"),
        (struct.pack(">II", 2, 0) + b"\xff\xff", "JSON header"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(frames.FrameError, match=message):
        frames.unpack(_reader(data), 1000)


def _record(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def test_records_of_the_engine_are_put_together_whatever_their_cuts() -> None:
    here, there = socket.socketpair()
    channel = AttachChannel(here)
    sent = _record(1, b"hello ") + _record(2, b"complaint") + _record(1, b"") + _record(1, b"world" * 1000)

    def send() -> None:
        for start in range(0, len(sent), 7):
            there.sendall(sent[start : start + 7])
        there.close()

    thread = threading.Thread(target=send)
    thread.start()
    deadline = time.monotonic() + 30
    assert channel.receive(8, deadline) == b"hello wo"
    assert channel.receive(4998, deadline) == b"rld" + b"world" * 999
    with pytest.raises(ChannelClosedError, match="complaint"):
        channel.receive(1, deadline)
    thread.join(30)
    channel.close()
    channel.close()


def test_a_silent_engine_is_waited_for_no_longer_than_the_deadline() -> None:
    here, there = socket.socketpair()
    channel = AttachChannel(here)
    with pytest.raises(ChannelTimeoutError):
        channel.receive(1, time.monotonic() + 0.05)
    with pytest.raises(ChannelTimeoutError):
        channel.send(b"x" * 10_000_000, time.monotonic() + 0.05)
    assert not channel.hung_up()
    there.close()
    assert channel.hung_up(1)
    channel.close()


def test_pipes_report_the_end_with_what_was_said() -> None:
    (request_out, request_in), (reply_out, reply_in), (error_out, error_in) = os.pipe(), os.pipe(), os.pipe()
    channel = PipeChannel(request_in, reply_out, error_out)
    channel.send(b"ask", time.monotonic() + 1)
    assert os.read(request_out, 10) == b"ask"
    os.write(reply_in, b"answer")
    assert channel.receive(6, time.monotonic() + 1) == b"answer"
    with pytest.raises(ChannelTimeoutError):
        channel.receive(1, time.monotonic() + 0.05)
    os.write(error_in, b"last words")
    for fd in (request_out, reply_in, error_in):
        os.close(fd)
    with pytest.raises(ChannelClosedError, match="last words"):
        channel.receive(1, time.monotonic() + 1)
    with pytest.raises(ChannelClosedError):
        channel.send(b"more", time.monotonic() + 1)
    assert channel.hung_up()
    channel.close()
