import contextlib
import os
import socket
import stat
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import zmq

from tests.wire.key_folders import make_keys
from trieline.common.file_lock import try_lock
from trieline.wire import addresses, sockets
from trieline.wire.addresses import (
    check_address,
    free_loopback_address,
    host_of,
    ip_of,
    is_local,
    private_ipc_addresses,
    reason_against,
)
from trieline.wire.config import ADDRESSES
from trieline.wire.errors import AddressError, KeysError
from trieline.wire.gate import keys_for


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
    assert is_local(address)
    assert keys_for(address, "") is None, "it needs none"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://0.0.0.0:7701", "0.0.0.0"),
        ("tcp://[::]:7701", "::"),
        ("tcp://192.168.1.2:7701", "192.168.1.2"),
        ("tcp://learner.example:7701", "learner.example"),
        ("tcp://gpu_1:1", "gpu_1"),
        ("tcp://[fe80::1%eth0]:7701", "fe80::1%eth0"),
        # Whatever a resolver makes of these: they are not in the form of loopback addresses.
        ("tcp://127.1:7701", "127.1"),
        ("tcp://2130706433:7701", "2130706433"),
        ("tcp://localhost.example:7701", "localhost.example"),
        ("tcp://[::ffff:10.0.0.1]:7701", "::ffff:10.0.0.1"),
    ],
)
def test_other_machines_need_keys(address: str, host: str, tmp_path: Path) -> None:
    check_address(address)
    assert not is_local(address)
    assert host_of(address) == host
    with pytest.raises(KeysError, match=r"from other machines, so it needs keys: .*trieline keys new"):
        keys_for(address, str(tmp_path / "none"))
    assert "needs keys" in str(sockets.reason_against_binding(address, str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("tcp://*:7701", "every interface is tcp://0.0.0.0:PORT"),
        ("tcp://[example.org]:7701", "expected an address like"),
        ("tcp://[fe80::1%]:7701", "expected an address like"),
        ("tcp://two words:7701", "expected an address like"),
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


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("fe80::1", "fe80::1")]
)
def test_the_number_of_a_host(host: str, expected: str) -> None:
    assert ip_of(host) == expected


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


def test_of_two_that_look_at_a_path_at_once_one_has_it(
    tmp_path: Path, closing: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"ipc://{tmp_path}/socket"
    context = closing.enter_context(zmq.Context())
    first, second = (closing.enter_context(context.socket(zmq.ROUTER)) for _ in range(2))
    other: list[Future[None]] = []

    def look(address: str) -> str | None:
        found = reason_against(address)
        if not other:
            # It has found the path free; now another one comes, and is done, or waits.
            other.append(threads.submit(sockets.bind, second, address))
            wait(other, timeout=0.2)
        return found

    monkeypatch.setattr(sockets, "reason_against", look)
    with ThreadPoolExecutor(1) as threads:
        sockets.bind(first, address)
    with pytest.raises(AddressError, match="another process listens there"):
        other[0].result()


def test_a_stranger_who_holds_a_folder_stops_nobody(
    tmp_path: Path, closing: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "ALONE_S", 0.0)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    closing.callback(os.close, descriptor)
    assert try_lock(descriptor)
    context = closing.enter_context(zmq.Context())
    sockets.bind(closing.enter_context(context.socket(zmq.ROUTER)), f"ipc://{tmp_path}/socket")


def test_the_path_of_a_dead_process_is_taken_over(tmp_path: Path, closing: contextlib.ExitStack) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    context = closing.enter_context(zmq.Context())
    sockets.bind(closing.enter_context(context.socket(zmq.ROUTER)), f"ipc://{path}")


def test_a_file_at_the_path_is_left_alone(tmp_path: Path, closing: contextlib.ExitStack) -> None:
    (tmp_path / "notes").write_text("precious")
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    with pytest.raises(AddressError, match="expected a socket there, or nothing, got a file"):
        sockets.bind(router, f"ipc://{tmp_path}/notes")
    assert (tmp_path / "notes").read_text() == "precious"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ipc:///var/tmp/" + "a" * 120, "at most 107 bytes, got 129"),
        ("ipc:///nosuchfolder/s", "expected a folder at /nosuchfolder, found none"),
        ("ipc:///etc/hostname", "expected a socket there, or nothing, got a file"),
        ("tcp://192.0.2.1:7701", "192.0.2.1 is no address of this machine"),
        ("tcp://no.such.name.invalid:7701", "no.such.name.invalid is not known here"),
        ("http://127.0.0.1:7701", "expected an address like tcp://"),
        ("tcp://127.0.0.1:99999", "expected a port from 1 to 65535"),
    ],
)
def test_what_can_not_be_bound_has_a_reason_against_it_and_binding_says_the_same(
    address: str, reason: str, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    keys = str(make_keys(tmp_path / "keys", "here").path)
    assert reason in str(sockets.reason_against_binding(address, keys))
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    with pytest.raises(AddressError) as error:
        sockets.bind(router, address, keys)
    assert reason in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_can_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "expected a folder that can be written to" in str(reason_against(f"ipc://{tmp_path}/s"))


def test_a_taken_address_has_a_reason_against_it(tmp_path: Path) -> None:
    address = free_loopback_address()
    assert reason_against(address) is None
    assert reason_against(f"ipc://{tmp_path}/socket") is None
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as taken_path:
        taken.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        taken.listen()
        taken_path.bind(str(tmp_path / "socket"))
        taken_path.listen()
        assert "another process listens there" in str(reason_against(address))
        assert "another process listens there" in str(reason_against(f"ipc://{tmp_path}/socket"))


def test_private_addresses_can_be_bound_and_are_nobody_elses(
    tmp_path: Path, closing: contextlib.ExitStack
) -> None:
    folder = tmp_path / "sockets"
    context = closing.enter_context(zmq.Context())
    for _ in range(2):  # the second time it is there already
        found = private_ipc_addresses(folder)
        assert set(found) == set(ADDRESSES)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for address in found.values():
        check_address(address)
        assert reason_against(address) is None
        sockets.bind(closing.enter_context(context.socket(zmq.ROUTER)), address)


def test_the_umask_opens_no_private_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_ipc_addresses(tmp_path / "sockets")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o700


def test_a_folder_that_is_not_private_is_refused_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name, came in (
        ("open", "got one of mode 755"),
        ("file", "got a file"),
        ("link", "got a link"),
        ("missing/sockets", "No such file or directory"),
        ("a" * 100, r"whose path has at most \d+ bytes, got \d+"),
    ):
        with pytest.raises(AddressError, match=came):
            private_ipc_addresses(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(AddressError, match="got a folder of user 12345"):
        private_ipc_addresses(folder)
