"""Addresses of sockets: what they look like, which stay on this machine, and whether one is free.

Traffic on loopback TCP and on `ipc://` paths does not leave the machine and is neither encrypted nor
authenticated. What goes to other machines has keys (see `gate`).
"""

import contextlib
import errno
import ipaddress
import os
import re
import secrets
import socket
import stat
from pathlib import Path

from trieline.common.folders import make_private
from trieline.wire.config import ADDRESSES
from trieline.wire.errors import AddressError

# The lowest and the highest port of outgoing connections.
OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LEAST_PORT = 10_000
# sockaddr_un holds 108 bytes with the closing zero.
MAX_IPC_PATH_BYTES = 107
IN_USE = (
    "another process listens there, perhaps a run that still goes on; "
    "stop it, or choose another address in [links]"
)
TCP_ADDRESS = re.compile(
    r"tcp://(?P<host>\[[0-9a-fA-F:.]+(%[\w.-]+)?\]|[A-Za-z0-9_.-]+):(?P<port>\d{1,5})", re.ASCII
)


def check_address(address: str) -> None:
    """Raise AddressError unless `address` is `tcp://` with a host and a port, or `ipc://` with a path."""
    if address.startswith("ipc://"):
        _check_ipc_path(address)
        return
    match = TCP_ADDRESS.fullmatch(address)
    if match is None:
        hint = "; every interface is tcp://0.0.0.0:PORT" if address.startswith("tcp://*") else ""
        msg = f"expected an address like tcp://HOST:7701 or ipc:///path/to/socket, got {address!r}{hint}"
        raise AddressError(msg)
    if not 1 <= int(match["port"]) <= 65535:
        msg = f"expected a port from 1 to 65535 in {address!r}, got {match['port']}"
        raise AddressError(msg)


def host_of(address: str) -> str | None:
    """The host of a TCP address, without brackets; None: it is a path. `address` has been checked."""
    match = TCP_ADDRESS.fullmatch(address)
    return None if match is None else match["host"].strip("[]")


def is_local(address: str) -> bool:
    """Whether traffic to this address can't leave the machine, whatever names mean here."""
    host = host_of(address)
    return host is None or _is_loopback(host)


def is_this_machine(host: str) -> bool:
    """Whether one of the addresses of `host` is this machine's: it can be bound."""
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


def ip_of(host: str) -> str:
    """The IPv4 address that a host's name stands for here; the host itself if there is none."""
    with contextlib.suppress(OSError, UnicodeError):
        return socket.gethostbyname(host)
    return host


def is_elsewhere(address: str) -> bool:
    """Whether it is an address of another machine, which nobody here can bind."""
    host = host_of(address)
    return host is not None and not _is_loopback(host) and not is_this_machine(host)


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
    """Why `address` can't be bound now, None if it can."""
    try:
        check_address(address)
        if address.startswith("ipc://"):
            return _reason_against_path(Path(address.removeprefix("ipc://")))
        reasons = [_reason_against_form(form) for form in forms_here(address)]
    except AddressError as error:
        return str(error)
    return None if None in reasons else reasons[0]


def forms_here(address: str) -> list[str]:
    """What a TCP address means that is to be bound, in figures: a name may have several, IPv4 comes first.

    Raises:
        AddressError: the name is not known, or is this machine's for itself alone.
    """
    forms = _in_figures(address)
    if is_local(address):
        return forms
    outside = [form for form in forms if not is_local(form)]
    if not outside:
        host, port = host_of(address), address.rpartition(":")[2]
        msg = (
            f"{host} is {host_of(forms[0])} here, where no other machine can reach it: on this machine take "
            f"tcp://0.0.0.0:{port} in its place"
        )
        raise AddressError(msg)
    return outside


def needs_ipv6(address: str) -> bool:
    """Whether a socket needs the IPv6 option for `address`: a name that has IPv4 as well is reached by that.

    Raises:
        AddressError: the name is not known.
    """
    return address.startswith("tcp://") and is_ipv6(_in_figures(address)[0])


def private_ipc_addresses(folder: Path) -> dict[str, str]:
    """An `ipc://` address for each link, in a folder that this user alone can enter. It is made if missing.

    Raises:
        AddressError: the folder can't be made, is a link, somebody else's or open to others, or its path is
            too long for the addresses of sockets.
    """
    folder = folder.absolute()
    longest = max(len(name) for name in ADDRESSES)
    if (length := len(os.fsencode(folder))) + 1 + longest > MAX_IPC_PATH_BYTES:
        most = MAX_IPC_PATH_BYTES - 1 - longest
        msg = f"expected a folder for sockets whose path has at most {most} bytes, got {length} in {folder}"
        raise AddressError(msg)
    try:
        make_private(folder)
    except OSError as error:
        msg = f"can't make a folder for sockets at {folder}: {error.strerror}"
        raise AddressError(msg) from error
    return {name: f"ipc://{folder}/{name}" for name in ADDRESSES}


def is_ipv6(address: str) -> bool:
    """Whether an address in figures is of IPv6."""
    return address.startswith("tcp://[")


def _in_figures(address: str) -> list[str]:
    match = TCP_ADDRESS.fullmatch(address)
    assert match is not None, "as checked"
    host, port = match["host"].strip("[]"), match["port"]
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        msg = f"{host} is not known here: {getattr(error, 'strerror', None) or error}"
        raise AddressError(msg) from error
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    figures = [socket.getnameinfo(one[4], numeric)[0] for one in sorted(found, key=lambda one: one[0])]
    return [f"tcp://[{one}]:{port}" if ":" in one else f"tcp://{one}:{port}" for one in figures]


def _reason_against_form(form: str) -> str | None:
    """Why an address in figures can't be bound."""
    match = TCP_ADDRESS.fullmatch(form)
    assert match is not None, "as made"
    with socket.socket(socket.AF_INET6 if is_ipv6(form) else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        try:
            probe.bind((match["host"].strip("[]"), int(match["port"])))
        except OSError as error:
            return reason_of(error.errno or 0, form)
    return None


def reason_of(number: int, form: str) -> str:
    """What an error of bind means."""
    if number == errno.EADDRINUSE:
        return IN_USE
    if number in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"{host_of(form)} is no address of this machine"
    return os.strerror(number)


def _reason_against_path(path: Path) -> str | None:
    """ZeroMQ deletes whatever is at the path, and takes it over: also a file, or a living socket."""
    folder = path.parent
    if not folder.is_dir():
        return f"expected a folder at {folder}, found none"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"expected a folder that can be written to, got {folder}"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return "expected a socket there, or nothing, got a file"
    except FileNotFoundError:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError as error:
            return error.strerror or str(error)
    return IN_USE


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
