"""Keys on sockets that other machines can reach, and the gate: who says which keys are let in.

Both ends of such a connection prove that they have their keys (CURVE, ZeroMQ RFC 26), and all that passes is
encrypted. The gate of a context answers libzmq when it asks whether a key may enter (ZAP, RFC 27). A bound
socket with keys and no gate lets nobody in.
"""

import contextlib
import logging
from typing import Any

import zmq

from trieline.common.complaints import Complaints
from trieline.wire.addresses import check_address, host_of, is_local
from trieline.wire.errors import KeysError
from trieline.wire.keys import KeyFolder, as_bytes, as_text

logger = logging.getLogger(__name__)

# Where libzmq asks, in each context, and the word by which it names our sockets.
ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"trieline"
WELCOME, REFUSED = b"200", b"400"


def keys_for(address: str, keys: str) -> KeyFolder | None:
    """The keys that a socket at `address` needs; None: what passes there does not leave this machine.

    `keys`: the folder of the configuration. If one is named, TCP on loopback has keys, too.
    Raises KeysError: this machine has no keys.
    """
    if host_of(address) is None or (is_local(address) and not keys):
        return None
    folder = KeyFolder(keys)
    try:
        folder.own()
    except KeysError as error:
        msg = f"{address} is reached from other machines, so it needs keys: {error}"
        raise KeysError(msg) from None
    return folder


def check_peer(address: str, keys: str) -> None:
    """Raise AddressError if a socket can't even try to connect: for its address, or for want of a key."""
    check_address(address)
    folder, host = keys_for(address, keys), host_of(address)
    if folder is not None and host is not None:
        folder.key_of(host)


def secure_bound(zmq_socket: zmq.Socket[Any], address: str, keys: str) -> None:
    """Set the keys of a socket that is to be bound. Raises KeysError."""
    folder = keys_for(address, keys)
    zmq_socket.setsockopt(zmq.CURVE_SERVER, int(folder is not None))
    if folder is not None:
        own = folder.own()
        zmq_socket.curve_secretkey = own.secret
        zmq_socket.zap_domain = DOMAIN
        zmq_socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def secure_connected(zmq_socket: zmq.Socket[Any], address: str, keys: str) -> None:
    """Set the keys of a socket that is to connect. Raises KeysError: those of the other end are not known."""
    folder = keys_for(address, keys)
    host = host_of(address)
    if folder is not None and host is not None:
        own = folder.own()
        zmq_socket.curve_publickey = as_bytes(own.public)
        zmq_socket.curve_secretkey = own.secret
        zmq_socket.curve_serverkey = as_bytes(folder.key_of(host))


class Gate:
    """Of one context. The thread that owns the context's sockets answers, too."""

    def __init__(self, keys: str, complaints: Complaints) -> None:
        """`keys`: as in the configuration. `complaints`: where it is told whom it refused."""
        self._keys = keys
        self._complaints = complaints

    def open(self, context: "zmq.Context[zmq.Socket[bytes]]") -> zmq.Socket[bytes]:
        """The socket to poll. Open it before another one of the context is bound."""
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        return self._socket

    def answer(self) -> None:
        """Answer all that wait; never waits itself."""
        with contextlib.suppress(zmq.Again):
            while True:
                version, request_id, domain, peer, _, mechanism, *credentials = self._socket.recv_multipart(
                    zmq.NOBLOCK
                )
                known = (domain, mechanism) == (DOMAIN, b"CURVE") and len(credentials) == 1
                status = WELCOME if known and self._lets_in(credentials[0], peer) else REFUSED
                self._socket.send_multipart([version, request_id, status, b"", b"", b""])

    def _lets_in(self, key: bytes, peer: bytes) -> bool:
        text, where = as_text(key), peer.decode(errors="replace")
        try:
            folder = KeyFolder(self._keys)
            if folder.lets_in(text):
                return True
        except KeysError as error:
            self._complaints.add("connections refused, for keys can't be read", error, level=logging.ERROR)
            return False
        what = f"{text} from {where}; `trieline keys allow {text} NAME{folder.flag}` here lets it in"
        self._complaints.add("connections refused for their key", what)
        return False
