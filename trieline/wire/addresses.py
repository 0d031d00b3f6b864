"""Which addresses a socket may be bound or connected to: this machine's, until links have keys.

Traffic on loopback TCP and on `ipc://` paths does not leave the machine and is neither encrypted nor
authenticated. Anything else is refused.
"""

import ipaddress
import re
import secrets
import socket
from pathlib import Path

from trieline.wire.errors import AddressError

# The lowest and the highest port of outgoing connections.
OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LEAST_PORT = 10_000
# sockaddr_un holds 108 bytes with the closing zero.
MAX_IPC_PATH_BYTES = 107
TCP_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")


def check_address(address: str) -> None:
    """Raise AddressError unless `address` is `tcp://` on loopback with a port, or `ipc://` with a path."""
    if address.startswith("ipc://"):
        _check_ipc_path(address)
        return
    match = TCP_ADDRESS.fullmatch(address)
    if match is None:
        msg = f"expected an address like tcp://127.0.0.1:7701 or ipc:///path/to/socket, got {address!r}"
        raise AddressError(msg)
    if not 1 <= int(match["port"]) <= 65535:
        msg = f"expected a port from 1 to 65535 in {address!r}, got {match['port']}"
        raise AddressError(msg)
    if not _is_loopback(match["host"].strip("[]")):
        msg = (
            f"expected a loopback address, got {address!r}: links carry no keys yet, so they stay on one "
            "machine; to reach another one, tunnel the port (ssh -L PORT:127.0.0.1:PORT HOST)"
        )
        raise AddressError(msg)


def free_loopback_address() -> str:
    """A TCP address on loopback that nothing listens on now (another program may still take it).

    Its port is below those that the system gives to outgoing connections, where there is room: one of those
    could be a connection's own end before it is bound.
    """
    outgoing = int(OUTGOING_PORTS.read_text().split()[0]) if OUTGOING_PORTS.exists() else LEAST_PORT
    for _ in range(100 if outgoing > LEAST_PORT else 0):
        address = f"tcp://127.0.0.1:{LEAST_PORT + secrets.randbelow(outgoing - LEAST_PORT)}"
        if reason_against(address) is None:
            return address
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def reason_against(address: str) -> str | None:
    """Why the TCP `address` can't be bound now, None if it can. Of `ipc://` paths the socket itself tells."""
    match = TCP_ADDRESS.fullmatch(address)
    if match is None:
        return None
    host = match["host"].strip("[]")
    with socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        try:
            probe.bind((host, int(match["port"])))
        except OSError as error:
            return error.strerror or str(error)
    return None


def is_ipv6(address: str) -> bool:
    """Whether the socket needs the IPv6 option for `address`."""
    return address.startswith("tcp://[")


def expect_unused_ipc(address: str) -> None:
    """Raise AddressError if another process listens on the `ipc://` path of `address`.

    Binding would otherwise succeed: ZeroMQ deletes the path and takes it over, dead or alive.
    """
    path = address.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            msg = f"can't use {address}: {error}"
            raise AddressError(msg) from error
    raise AddressError(in_use(address))


def in_use(address: str) -> str:
    """The message for an address that another process holds."""
    return (
        f"can't bind {address}: another process listens there, perhaps a run that still goes on; "
        "stop it, or choose another address in [links]"
    )


def _check_ipc_path(address: str) -> None:
    path = address.removeprefix("ipc://")
    # "@" would be an abstract socket, which has no file permissions; "*" would be a random path.
    if not path or path.startswith(("@", "*")) or "\0" in path:
        msg = f"expected a file path after ipc://, got {address!r}"
        raise AddressError(msg)
    if (length := len(path.encode(errors="surrogateescape"))) > MAX_IPC_PATH_BYTES:
        msg = f"expected an ipc path of at most {MAX_IPC_PATH_BYTES} bytes, got {length} in {address!r}"
        raise AddressError(msg)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
