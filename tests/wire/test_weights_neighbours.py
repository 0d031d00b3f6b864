"""Policy servers of one machine that see no file of the learner's: one fetches, all have the version."""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.wire.weights_ends import wait_for, weights
from trieline.common.file_lock import try_lock
from trieline.wire.config import LinksConfig
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

PATTERN = "server-*"


def start_server(
    closing: contextlib.ExitStack, links: LinksConfig, tmp_path: Path, number: int
) -> WeightsSubscriber:
    name = f"server-{number}"
    (tmp_path / name).mkdir(mode=0o700)
    server = WeightsSubscriber(links, server_id=name, fetch_folder=tmp_path / name, neighbours=PATTERN)
    closing.callback(server.close)
    server.start()
    return server


class Elsewhere(WeightsPublisher):
    """A learner on another machine: nobody here sees its files."""

    def _make_public(self, policy_version: int, path: Path, file: BinaryIO, crc32: int | None) -> None:
        path.unlink()
        super()._make_public(policy_version, path, file, crc32)


def elsewhere(closing: contextlib.ExitStack, links: LinksConfig) -> WeightsPublisher:
    learner = Elsewhere(links)
    closing.callback(learner.close)
    learner.start()
    return learner


def publish(learner: WeightsPublisher, tmp_path: Path, version: int) -> bytes:
    path = weights(tmp_path, "weights", seed=version)
    content = path.read_bytes()
    learner.publish(version, path)
    return content


def lock_of(tmp_path: Path, learner: WeightsPublisher, version: int) -> Path:
    return tmp_path / f".weights-{learner._start}-{version}.safetensors.lock"


def test_one_fetches_and_the_others_link_its_file(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = elsewhere(closing, links)
    servers = [start_server(closing, links, tmp_path, number) for number in range(4)]
    for version in (1, 2, 3):
        content = publish(learner, tmp_path, version)
        found = [wait_for(server.poll) for server in servers]
        assert {number for number, _ in found} == {version}
        assert len({path for _, path in found}) == 4, "each has a name of its own for it"
        assert len({path.stat().st_ino for _, path in found}) == 1
        assert found[0][1].read_bytes() == content
    # Of the three versions each keeps two, and nothing else is left.
    assert [len([*folder.iterdir()]) for folder in tmp_path.glob(PATTERN)] == [2] * 4
    assert [*tmp_path.glob("*.lock")] == []


@pytest.mark.parametrize("ends", ["it is gone", "it gets nothing"])
def test_who_fetches_is_waited_for_while_it_gets_something(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path, ends: str
) -> None:
    learner = elsewhere(closing, links)
    path = lock_of(tmp_path, learner, 1)
    other = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    assert try_lock(other)
    content = publish(learner, tmp_path, 1)
    server = start_server(closing, links, tmp_path, 0)
    wait_for(lambda: server._waits)
    assert server.poll() is None
    if ends == "it is gone":
        os.close(other)
    else:
        os.utime(path, (1, 1))
    assert wait_for(server.poll)[1].read_bytes() == content


def test_what_a_neighbour_has_is_looked_at(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = elsewhere(closing, links)
    (tmp_path / "server-9").mkdir(mode=0o700)
    name = lock_of(tmp_path, learner, 1).name[1:].removesuffix(".lock")
    weights(tmp_path / "server-9", name, seed=99)
    content = publish(learner, tmp_path, 1)
    server = start_server(closing, links, tmp_path, 0)
    assert wait_for(server.poll)[1].read_bytes() == content
    assert server.corrupt == 1


def test_a_file_that_is_there_is_taken_whoever_has_the_lock(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = elsewhere(closing, links)
    path = lock_of(tmp_path, learner, 1)
    other = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    assert try_lock(other)
    (tmp_path / "server-9").mkdir(mode=0o700)
    there = weights(tmp_path / "server-9", path.name[1:].removesuffix(".lock"), seed=1)
    publish(learner, tmp_path, 1)
    server = start_server(closing, links, tmp_path, 0)
    assert wait_for(server.poll)[1].stat().st_ino == there.stat().st_ino
    os.close(other)


def test_locks_that_nobody_holds_go(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = elsewhere(closing, links)
    left, held = (tmp_path / f".weights-5-{number}.safetensors.lock" for number in (1, 2))
    left.touch(0o600)
    other = os.open(held, os.O_RDWR | os.O_CREAT, 0o600)
    assert try_lock(other)
    publish(learner, tmp_path, 1)
    server = start_server(closing, links, tmp_path, 0)
    wait_for(server.poll)
    assert [*tmp_path.glob("*.lock")] == [held]
    os.close(other)
