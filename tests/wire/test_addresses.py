import contextlib
import socket
from pathlib import Path

import pytest
import zmq

from trieline.wire import addresses, sockets
from trieline.wire.addresses import check_address, free_loopback_address, reason_against
from trieline.wire.errors import AddressError


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:7701",
        "tcp://127.8.9.1:1",
        "tcp://localhost:65535",
        "tcp://[::1]:7701",
        "ipc:///tmp/a",
        "ipc://relative/path",
    ],
)
def test_this_machine(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("tcp://0.0.0.0:7701", "ssh -L"),
        ("tcp://192.168.1.2:7701", "loopback"),
        ("tcp://*:7701", "loopback"),
        ("tcp://example.org:7701", "loopback"),
        ("tcp://[::]:7701", "loopback"),
        ("tcp://127.0.0.1:0", "port from 1 to 65535"),
        ("tcp://127.0.0.1:70000", "port from 1 to 65535"),
        ("tcp://127.0.0.1", "expected an address like"),
        ("tcp://127.0.0.1:77:1", "expected an address like"),
        ("udp://127.0.0.1:1", "expected an address like"),
        ("127.0.0.1:7701", "expected an address like"),
        ("", "expected an address like"),
        ("ipc://", "file path"),
        ("ipc://@abstract", "file path"),
        ("ipc://*", "file path"),
        ("ipc:///" + "a" * 200, "at most 107 bytes"),
    ],
)
def test_anything_else_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(AddressError, match=complaint):
        check_address(address)


@pytest.mark.parametrize("lowest", ["20000\t60999\n", "1024\t65535\n", None])
def test_a_free_port_is_none_of_outgoing_connections_where_there_is_room(
    lowest: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lowest is not None:
        (tmp_path / "range").write_text(lowest)
    monkeypatch.setattr(addresses, "OUTGOING_PORTS", tmp_path / "range")
    for _ in range(20):
        address = free_loopback_address()
        check_address(address)
        if lowest is not None and lowest.startswith("20000"):
            assert 10_000 <= int(address.rpartition(":")[2]) < 20_000


def test_a_free_address_can_be_bound(closing: contextlib.ExitStack) -> None:
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    address = free_loopback_address()
    check_address(address)
    sockets.bind(router, address)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_an_address_in_use_is_named(transport: str, tmp_path: Path, closing: contextlib.ExitStack) -> None:
    address = free_loopback_address() if transport == "tcp" else f"ipc://{tmp_path}/socket"
    context = closing.enter_context(zmq.Context())
    first = closing.enter_context(context.socket(zmq.ROUTER))
    second = closing.enter_context(context.socket(zmq.ROUTER))
    sockets.bind(first, address)
    with pytest.raises(AddressError, match=f"can't bind {address}: another process listens there"):
        sockets.bind(second, address)


def test_the_path_of_a_dead_process_is_taken_over(tmp_path: Path, closing: contextlib.ExitStack) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    context = closing.enter_context(zmq.Context())
    sockets.bind(closing.enter_context(context.socket(zmq.ROUTER)), f"ipc://{path}")


def test_a_path_in_no_folder(tmp_path: Path, closing: contextlib.ExitStack) -> None:
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    with pytest.raises(AddressError, match="can't bind"):
        sockets.bind(router, f"ipc://{tmp_path}/missing/socket")


def test_a_taken_address_has_a_reason_against_it() -> None:
    address = free_loopback_address()
    assert reason_against(address) is None
    assert reason_against("ipc:///run/trieline.sock") is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        taken.listen()
        assert "in use" in str(reason_against(address))
