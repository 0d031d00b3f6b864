"""The bound end of a link: a test opens and closes it while the event loop of the other end stands still."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

WAIT_MS = 10_000


class RawRouter:
    """A ROUTER with one peer. Once closed, its address is free and its connection broken."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._monitor = self._socket.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED)
        self._socket.bind(address)

    def wait_connected(self) -> None:
        """Until the peer has connected, whether it has noticed or not."""
        assert self._monitor.poll(WAIT_MS), "nobody has connected"
        recv_monitor_message(self._monitor)

    def hear(self) -> list[bytes]:
        """The frames of the next message."""
        assert self._socket.poll(WAIT_MS), "the peer said nothing"
        return self._socket.recv_multipart()[1:]

    def close(self) -> None:
        """Idempotent."""
        self._context.destroy(linger=0)


@contextlib.contextmanager
def raw_router(address: str) -> Iterator[RawRouter]:
    with contextlib.closing(RawRouter(address)) as made:
        yield made


def wait_until_tried(address: str) -> None:
    """Until somebody tries an `ipc://` address again, as its connection has ended; it is turned away."""
    path = Path(address.removeprefix("ipc://"))
    # ZeroMQ leaves it behind.
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(WAIT_MS / 1000)
        listener.bind(str(path))
        listener.listen()
        listener.accept()[0].close()
        path.unlink()
