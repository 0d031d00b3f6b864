"""Machines, as far as the kernel is concerned: names, IPv6, keys and weights between network namespaces."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.host_network import HostNetwork
from tests.hosts import need_hosts
from tests.wire.key_folders import line_of, make_keys
from tests.wire.weights_ends import wait_for

PATIENCE_S = 60.0
LEARNER = """
import time
from pathlib import Path
from tests.wire.test_trajectory_link import assignments
from trieline.common.program_log import start_log
from trieline.wire.config import LinksConfig
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.weights_link import WeightsPublisher
start_log()
links = LinksConfig(trajectories="tcp://learner:7701", weights_fetch="tcp://[::]:7704", heartbeat_s=0.2)
receiver = TreeReceiver(links, accept=lambda delivery, frames: None, run_id="run")
publisher = WeightsPublisher(links)
receiver.start()
publisher.start()
path = Path("/dev/shm/weights")  # which no other host sees
path.write_bytes(bytes(range(256)) * 20_000)
publisher.publish(1, path)
receiver.offer(assignments(*range(40)))
found = set()
while len(found) < 40:
    found.add(receiver.get(30).assignment_id)
    print(len(found), flush=True)
publisher.wait_loaded(1, 30)
receiver.stop_actors("all is here")
while receiver.actors():  # until the last of them has said goodbye
    time.sleep(0.05)
print("done", flush=True)
receiver.close()
publisher.close()
"""
ACTOR = """
import asyncio, sys
from pathlib import Path
from tests.wire.test_trajectory_link import tree
from trieline.common.program_log import start_log
from trieline.wire.config import LinksConfig
from trieline.wire.trajectory_link import Stopped, TreeSender
from trieline.wire.weights_link import WeightsSubscriber
start_log()
links = LinksConfig(trajectories="tcp://learner:7701", weights_fetch="tcp://learner-6:7704", heartbeat_s=0.2)
async def play():
    sender = TreeSender(links, actor_id=sys.argv[1], capacity=2)
    await sender.start()
    try:
        while True:
            given = await sender.next_assignment(30)
            await asyncio.sleep(0.02)
            await sender.send(given.assignment_id, tree())
    except Stopped:
        print("stopped", flush=True)
    await sender.close()
weights = WeightsSubscriber(links, server_id=sys.argv[1], fetch_folder=Path("fetched"))
weights.start()
while (got := weights.poll()) is None:
    pass
assert got[1].parent == Path("fetched") and got[1].read_bytes() == bytes(range(256)) * 20_000, got
weights.report_loaded(1, 0.1)
asyncio.run(play())
weights.close()
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[HostNetwork]:
    need_hosts()
    made = HostNetwork(tmp_path, ["learner", "player", "stranger"])
    try:
        yield made
    finally:
        made.close()


def ended(process: "subprocess.Popen[bytes]") -> bool:
    """Well, and in time."""
    try:
        return process.wait(PATIENCE_S) == 0
    except subprocess.TimeoutExpired:
        return False


def said(network: HostNetwork, host: str, log: str) -> str:
    path = network.home(host) / log
    return path.read_text() if path.exists() else ""


def test_trees_and_weights_pass_between_machines_and_a_stranger_is_told_why_not(
    network: HostNetwork,
) -> None:
    hosts = ("learner", "player", "stranger")
    keys = {host: make_keys(network.home(host) / ".config/trieline/keys", host) for host in hosts}
    for folder in keys.values():
        folder.allow(line_of(keys["learner"], "learner", "learner-6"))
        folder.allow(line_of(keys["player"]))
    learner = network.start("learner", "-c", LEARNER, log="learner.log")
    stranger = network.start("stranger", "-c", ACTOR, "stranger", log="stranger.log")
    wait_for(lambda: "it does not know the key of this machine" in said(network, "stranger", "stranger.log"))
    assert "on learner-6, `trieline keys allow" in said(network, "stranger", "stranger.log")
    actors = [network.start("player", "-c", ACTOR, name, log=f"{name}.log") for name in ("one", "two")]
    for process in (learner, *actors):
        assert ended(process), said(network, "learner", "learner.log") + said(network, "player", "one.log")
    assert "done" in said(network, "learner", "learner.log")
    key = keys["stranger"].own().public
    assert f"refused for their key, the latest: {key} from fd77::3" in said(network, "learner", "learner.log")
    assert stranger.poll() is None, "it goes on trying"
