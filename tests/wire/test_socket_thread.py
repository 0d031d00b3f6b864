import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import zmq

from trieline.wire import sockets
from trieline.wire.errors import AddressError, WireError
from trieline.wire.socket_thread import Context, SocketThread

WAIT_S = 10.0


class Echo:
    """Answers what it hears, and counts its turns."""

    def __init__(self, address: str, *, fail_at: bytes | None = None) -> None:
        self.ended = threading.Event()
        self.turned = threading.Event()
        self._address = address
        self._fail_at = fail_at
        self.thread = SocketThread(
            f"echo at {address}", open_sockets=self._open, turn=self._turn, at_end=self.ended.set
        )

    def _open(self, context: Context) -> Sequence[zmq.Socket[bytes]]:
        self._router = context.socket(zmq.ROUTER)
        sockets.bind(self._router, self._address)
        return [self._router]

    def _turn(self) -> float:
        self.turned.set()
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
                if frames[-1] == self._fail_at:
                    msg = "heard the word"
                    raise RuntimeError(msg)
                self._router.send_multipart(frames)
        return WAIT_S


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/socket"


@pytest.fixture
def client(address: str, closing: contextlib.ExitStack) -> "zmq.Socket[bytes]":
    context = closing.enter_context(zmq.Context())
    made = closing.enter_context(context.socket(zmq.DEALER))
    made.linger = 0
    made.rcvtimeo = round(1000 * WAIT_S)
    made.connect(address)
    return made


def test_it_turns_when_something_comes_and_when_it_is_woken(
    address: str, client: "zmq.Socket[bytes]", closing: contextlib.ExitStack
) -> None:
    echo = Echo(address)
    closing.callback(echo.thread.close)
    echo.thread.start()
    client.send(b"hello")
    assert client.recv() == b"hello"
    echo.turned.clear()
    echo.thread.wake()
    assert echo.turned.wait(WAIT_S)
    echo.thread.close()
    assert echo.ended.is_set()
    assert echo.thread.failure is None
    echo.thread.close()


def test_an_error_ends_it_and_is_told_to_whoever_asks(
    address: str, client: "zmq.Socket[bytes]", closing: contextlib.ExitStack
) -> None:
    echo = Echo(address, fail_at=b"word")
    closing.callback(echo.thread.close)
    echo.thread.start()
    echo.thread.expect_running()
    client.send(b"word")
    assert echo.ended.wait(WAIT_S)
    with pytest.raises(WireError, match=r"the echo at ipc://.*socket failed: heard the word"):
        echo.thread.expect_running()


def test_what_can_not_be_opened_leaves_nothing_open(address: str, closing: contextlib.ExitStack) -> None:
    first, second = Echo(address), Echo(address)
    closing.callback(first.thread.close)
    closing.callback(second.thread.close)
    first.thread.start()
    with pytest.raises(AddressError, match="another process listens"):
        second.thread.start()
    first.thread.close()
    third = Echo(address)
    closing.callback(third.thread.close)
    third.thread.start()


def test_close_without_start(address: str) -> None:
    echo = Echo(address)
    echo.thread.close()
    echo.thread.close()
