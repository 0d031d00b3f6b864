"""A peer that speaks ZeroMQ's protocol byte by byte, and so can say what no honest library says."""

import contextlib
import socket
import struct
from collections.abc import Sequence

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
PING = b"\x04\x07\x04PING\x00\x00"
WAIT_S = 10.0


def frame(body: bytes) -> bytes:
    """A message of one short frame."""
    assert len(body) < 256
    return b"\x00" + bytes([len(body)]) + body


def frames(parts: Sequence[bytes]) -> bytes:
    """A message of frames of any length."""
    heads = (bytes([2 | (part is not parts[-1])]) + len(part).to_bytes(8, "big") for part in parts)
    return b"".join(head + part for head, part in zip(heads, parts, strict=True))


def connect_raw(address: str, *, socket_type: bytes = b"DEALER", identity: bytes = b"") -> socket.socket:
    """A connection to an `ipc://` address whose handshake is done."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT_S)
    connection.connect(address.removeprefix("ipc://"))
    connection.sendall(GREETING)
    _read(connection, len(GREETING))
    ready = b"\x05READY" + _property(b"Socket-Type", socket_type) + _property(b"Identity", identity)
    connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
    _read(connection, _read(connection, 2)[1])
    return connection


def send_until_stuck(connection: socket.socket, data: bytes) -> None:
    """Hand over as much of `data` as the other end takes: all, or until it reads no more."""
    connection.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        connection.sendall(data)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, "the other end closed"
        data += more
    return data


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
