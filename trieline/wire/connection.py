"""A socket's connection to one address, as its monitor tells: whether it is up, and why it was refused.

ZeroMQ itself tells nobody that a handshake failed. It tries again after some failures, with the keys that it
has, and gives up for good after others. They are tried again here, with the keys as they are by then, so that
whoever is allowed later is let in.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.addresses import host_of
from trieline.wire.errors import KeysError
from trieline.wire.gate import keys_for

# What a connection that was refused waits for before it is tried again.
RETRY_S = 1.0
# So many handshakes that end without a word are no accident, such as the end of the other end.
UNEXPLAINED = 2
MECHANISMS_DIFFER = 0x11000002
"""ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: one end has keys, the other none."""
FAILED = {
    zmq.Event.HANDSHAKE_FAILED_AUTH,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
}
EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class Connection:
    """Belongs to the thread or event loop of its socket."""

    def __init__(self, zmq_socket: zmq.Socket[Any], address: str, keys: str, complaints: Complaints) -> None:
        """Begin to connect. `keys`: as in `LinksConfig`. Raises AddressError."""
        self.up = False
        self.refusal = ""
        """Why the last try came to nothing, as far as that is known."""
        self._socket = zmq_socket
        self._address = address
        self._keys = keys
        self._complaints = complaints
        self._unexplained = 0
        self._retry_at: float | None = None
        self.monitor: Any = zmq_socket.get_monitor_socket(EVENTS)
        """To poll: `news` has something to read."""
        self._events: zmq.Socket[bytes] = zmq.Socket.shadow(self.monitor)
        try:
            sockets.connect(zmq_socket, address, keys)
        except BaseException:
            self.close()
            raise

    def news(self) -> Iterator[bool]:
        """Take in what has happened up to now. True: it has come up, False: it has broken."""
        while int(self._events.get(zmq.EVENTS)) & int(zmq.POLLIN):
            message = recv_monitor_message(self._events, zmq.NOBLOCK)
            event = message["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.up, self.refusal, self._unexplained, self._retry_at = True, "", 0, None
                yield True
            elif event in FAILED:
                self._note_failure(event, message["value"])
            elif self.up:
                self.up = False
                yield False
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._retry()

    def wait_s(self) -> float | None:
        """After so long `news` has something to do, even if nothing happens."""
        return None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())

    def close(self) -> None:
        """Close the monitor; the socket stays its owner's. Idempotent."""
        if not self.monitor.closed:
            self._socket.disable_monitor()
            self.monitor.close(linger=0)

    def _note_failure(self, event: int, value: int) -> None:
        if event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            self._unexplained += 1
            if self._unexplained < UNEXPLAINED or host_of(self._address) is None:
                return
        if self._retry_at is None:
            self._retry_at = time.monotonic() + RETRY_S
        self.refusal = self._reason(event, value)
        self._complaints.add("connections refused", self.refusal, level=logging.ERROR)

    def _reason(self, event: int, value: int) -> str:
        host = host_of(self._address)
        try:
            folder = keys_for(self._address, self._keys)
            if folder is None or host is None:
                return (
                    "the other end wants keys, this one has none for an address of its own machine: name the "
                    "folder in links.keys, or take the address at which it is bound"
                )
            own, expected = folder.own(), folder.key_of(host)
        except KeysError as error:
            return str(error)
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            return (
                f"it does not know the key of this machine; on {host}, "
                f"`trieline keys allow {own.public} {own.name}{folder.flag}` lets it in"
            )
        if value == MECHANISMS_DIFFER:
            return f"what listens there has no keys, this end has: is it Trieline, bound to {self._address}?"
        return (
            f"its key is not {expected}, which {host} has in {folder.path}, or it has none: `trieline keys "
            f"show` on {host} prints it; here `trieline keys remove {host}{folder.flag}` and `trieline keys "
            f"allow KEY {host}{folder.flag}` take it"
        )

    def _retry(self) -> None:
        self._retry_at = None
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._address)
        try:
            # The keys may be others by now.
            sockets.connect(self._socket, self._address, self._keys)
        except KeysError as error:
            self.refusal = str(error)
            self._complaints.add("connections refused", error, level=logging.ERROR)
            self._retry_at = time.monotonic() + RETRY_S
