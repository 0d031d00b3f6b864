"""The sockets of a run: for this user alone, and gone with the run."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.wire.key_folders import line_of, make_keys
from trieline.launcher.run_sockets import PREFIX, expect_free, run_sockets, with_free_addresses
from trieline.wire.addresses import IN_USE
from trieline.wire.config import ADDRESSES, LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.sockets import bind


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Short: a path of a socket has 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def folders(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"{PREFIX}*"))


def test_addresses_that_nobody_chose_are_in_a_private_folder_that_goes(temporary: Path) -> None:
    mine = "tcp://127.0.0.1:45671"
    with run_sockets(LinksConfig(generate=mine)) as links, zmq.Context() as context:
        (folder,) = folders(temporary)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert links.generate == mine
        chosen = [name for name in ADDRESSES if name != "generate"]
        assert all(getattr(links, name) == f"ipc://{folder}/{name}" for name in chosen)
        for name in chosen:
            with context.socket(zmq.ROUTER) as socket:
                bind(socket, getattr(links, name))
    assert folders(temporary) == []


def test_a_run_that_goes_on_gets_new_ones(temporary: Path) -> None:
    with run_sockets(LinksConfig()) as before:
        pass
    assert with_free_addresses(before, pytest.fail) == before, "they are replaced with the sockets"
    with run_sockets(before) as links:
        assert links.trajectories != before.trajectories
        assert Path(links.trajectories.removeprefix("ipc://")).parent in folders(temporary)


def test_two_runs_at_a_time_leave_each_other_alone(temporary: Path) -> None:
    with run_sockets(LinksConfig()) as one:
        with run_sockets(LinksConfig()) as other:
            assert one.generate != other.generate
            assert len(folders(temporary)) == 2
        assert len(folders(temporary)) == 1


def test_what_a_killed_launcher_left_goes_with_the_next_start(temporary: Path) -> None:
    left = temporary / f"{PREFIX}left"
    left.mkdir(mode=0o700)
    (left / "owner").touch()
    (left / "generate").touch()
    with run_sockets(LinksConfig()):
        assert left not in folders(temporary)


def test_a_temporary_folder_with_a_long_path_is_passed_by(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with run_sockets(LinksConfig()) as links:
        assert links.trajectories.startswith(f"ipc:///tmp/{PREFIX}")
    assert folders(deep) == []


def test_an_address_of_ones_own_that_was_taken_is_replaced() -> None:
    said: list[str] = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        one = with_free_addresses(LinksConfig(generate=address), said.append)
        several = with_free_addresses(LinksConfig(generate=("ipc:///tmp/a", address)), said.append)
    assert isinstance(one.generate, str)
    assert one.generate.startswith("tcp://127.0.0.1:")
    assert one.generate != address
    assert several.generate[0] == "ipc:///tmp/a"
    assert several.generate[1] not in (address, "ipc:///tmp/a")
    told = [line for line in said if line.startswith("links.generate: ")]
    assert told[0] == f"links.generate: {one.generate} now ({address}: {IN_USE})"
    assert len(told) == 2


def test_an_address_of_ones_own_that_can_not_be_bound_is_told_before_the_start() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        address = f"tcp://127.0.0.1:{taken.bind_to_random_port('tcp://127.0.0.1')}"
        with pytest.raises(AddressError, match=f"links.trajectories: can't bind {address}: another process"):
            expect_free(LinksConfig(trajectories=address))
        with pytest.raises(AddressError, match=f"links.generate: can't bind {address}: another process"):
            expect_free(LinksConfig(generate=("ipc:///tmp/a", address)))
    with pytest.raises(AddressError, match="expected an address like"):
        expect_free(LinksConfig(weights_fetch="http://127.0.0.1:7704"))
    with pytest.raises(AddressError, match=r"links.generate: can't bind ipc:///tmp/a: it is there twice"):
        expect_free(LinksConfig(trajectories="ipc:///tmp/a", generate="ipc:///tmp/a"))


ELSEWHERE = "tcp://192.0.2.1:7702"
"""Of documentation: no machine's."""


def test_a_policy_server_on_another_machine_is_not_bound_here_but_known(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", "here")
    links = LinksConfig(generate=("ipc:///tmp/a", ELSEWHERE), keys=str(keys.path))
    with pytest.raises(AddressError, match=r"no key is known for 192.0.2.1"):
        expect_free(links)
    keys.allow(line_of(make_keys(tmp_path / "other", "gpu1"), "192.0.2.1"))
    expect_free(links)
    assert with_free_addresses(links, pytest.fail) == links


def test_an_address_that_other_machines_know_is_not_replaced(tmp_path: Path) -> None:
    links = LinksConfig(
        trajectories="tcp://192.0.2.1:7701", keys=str(make_keys(tmp_path / "keys", "here").path)
    )
    for check in (expect_free, lambda found: with_free_addresses(found, pytest.fail)):
        with pytest.raises(AddressError, match=r"links.trajectories: can't bind .* is no address of this"):
            check(links)


def test_addresses_that_nobody_chose_are_not_looked_at() -> None:
    default = LinksConfig()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        with contextlib.suppress(zmq.ZMQError):  # by another program, then
            taken.bind(default.trajectories)
        expect_free(default)
