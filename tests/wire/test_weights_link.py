import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.wire.weights_ends import NUM_BYTES, WAIT_S, load, publisher, subscriber, wait_for, weights
from trieline.common.checksum import file_crc32
from trieline.wire.codec import decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError, WireError
from trieline.wire.messages import (
    Chunk,
    ChunkRequest,
    LatestRequest,
    LearnerToServer,
    ServerToLearner,
    WeightsAnnouncement,
    WeightsLoaded,
)
from trieline.wire.weights_chunks import MAX_STRANGERS, WINDOW, ChunkTraffic
from trieline.wire.weights_fetch import Fetch
from trieline.wire.weights_link import WeightsSubscriber
from trieline.wire.weights_publisher import CHUNK_BYTES, SEND_QUEUE


def test_the_file_itself_is_taken_where_it_is_visible(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner, server = publisher(closing, links), subscriber(closing, links, tmp_path)
    path = weights(tmp_path, "one")
    learner.publish(1, path)
    assert wait_for(server.poll) == (1, path)
    assert server.poll() is None
    assert not (tmp_path / "of-server").exists()


def test_a_touched_file_is_summed_again(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    path = weights(tmp_path, "one")
    learner.publish(1, path)
    with contextlib.closing(WeightsSubscriber(links, server_id="x", fetch_folder=tmp_path / "x")) as early:
        early.start()
        wait_for(early.poll)
    os.utime(path, ns=(1, 1))
    server = subscriber(closing, links, tmp_path)
    assert wait_for(server.poll) == (1, path)


def test_an_unlinked_file_is_fetched_in_chunks(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    # Chunks of 100 kB, so that many are needed.
    links = msgspec.structs.replace(links, max_message_bytes=200_000)
    learner = publisher(closing, links)
    path = weights(tmp_path, "one")
    expected = path.read_bytes()
    learner.publish(7, path)
    path.unlink()
    server = subscriber(closing, links, tmp_path)
    version, fetched = wait_for(server.poll)
    assert version == 7
    assert fetched != path
    assert fetched.read_bytes() == expected
    assert [p for p in fetched.parent.iterdir() if p != fetched] == []


def test_a_late_server_takes_the_newest_and_skips_the_others(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner, early = publisher(closing, links), subscriber(closing, links, tmp_path, "early")
    paths = [weights(tmp_path, f"v{version}", seed=version) for version in range(4)]
    for version, path in enumerate(paths):
        learner.publish(version, path)
    wait_for(lambda: early.poll() == (3, paths[3]))
    server = subscriber(closing, links, tmp_path)
    assert wait_for(server.poll) == (3, paths[3])
    assert server.poll() is None


def test_a_changed_file_is_never_taken(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    path = weights(tmp_path, "one")
    with contextlib.closing(WeightsSubscriber(links, server_id="x", fetch_folder=tmp_path / "x")) as early:
        early.start()
        learner.publish(1, path)
        wait_for(early.poll)
    with path.open("r+b") as file:
        file.seek(NUM_BYTES // 2)
        file.write(b"corrupt")
    server = subscriber(closing, links, tmp_path)
    # Not from where it is, and not fetched: the learner serves the same bytes.
    wait_for(lambda: server.corrupt >= 3)
    assert server.poll() is None
    good = weights(tmp_path, "two", seed=2)
    learner.publish(2, good)
    assert wait_for(server.poll) == (2, good)


class ForgingLearner:
    """Serves one version from memory; the first time, one of its chunks is damaged or left out."""

    def __init__(self, links: LinksConfig, closing: contextlib.ExitStack, path: Path, fault: str) -> None:
        self.faults = 0
        self._fault = fault
        self._data = path.read_bytes()
        with path.open("rb", buffering=0) as file:
            crc = file_crc32(file)
        self._announcement = WeightsAnnouncement(
            policy_version=1, num_bytes=len(self._data), crc32=crc, path="/nowhere", publisher_start=1
        )
        context = zmq.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.bind(links.weights_fetch)
        self._closing = threading.Event()
        thread = threading.Thread(target=self._serve)
        closing.callback(context.destroy, linger=0)
        closing.callback(thread.join)
        closing.callback(self._closing.set)
        thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            if not self._router.poll(20):
                continue
            peer, *frames = self._router.recv_multipart()
            match decode(frames, ServerToLearner, max_bytes=1 << 20):
                case LatestRequest():
                    self._router.send_multipart([peer, *encode(self._announcement)])
                case ChunkRequest() as request:
                    if (chunk := self._chunk(request)) is not None:
                        self._router.send_multipart([peer, *encode(chunk)])

    def _chunk(self, request: ChunkRequest) -> Chunk | None:
        data = np.frombuffer(self._data, np.uint8)[request.offset : request.offset + request.num_bytes]
        if request.offset > 0 and self.faults == 0:
            self.faults += 1
            if self._fault == "left out":
                return None
            data = np.concatenate([data[:-1], data[-1:] ^ 1])
        return Chunk(policy_version=1, offset=request.offset, data=data)


@pytest.mark.parametrize("fault", ["damaged", "left out"])
def test_a_chunk_that_is_damaged_or_lost_is_fetched_again(
    fault: str, links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    links = msgspec.structs.replace(links, max_message_bytes=1_000_000)
    path = weights(tmp_path, "one")
    learner = ForgingLearner(links, closing, path, fault)
    server = subscriber(closing, links, tmp_path)
    version, fetched = wait_for(server.poll)
    assert version == 1
    assert fetched.read_bytes() == path.read_bytes()
    assert learner.faults == 1
    assert server.corrupt == (fault == "damaged")


def test_enough_is_asked_for_to_fill_a_long_line(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    router.linger = 0
    router.bind(links.weights_fetch)
    size = 20 * CHUNK_BYTES + 1
    subscriber(closing, links, tmp_path)
    asked: list[int] = []
    while len(asked) < WINDOW:
        assert router.poll(int(WAIT_S * 1000))
        peer, *frames = router.recv_multipart()
        match decode(frames, ServerToLearner, max_bytes=1 << 20):
            case LatestRequest():
                announcement = WeightsAnnouncement(policy_version=1, num_bytes=size, crc32=0, path="/nowhere")
                router.send_multipart([peer, *encode(announcement)])
            case ChunkRequest(offset=offset):
                asked.append(offset)
    assert asked == [CHUNK_BYTES * number for number in range(WINDOW)]


def test_one_more_is_asked_for_with_each_that_comes_and_only_one_after_a_stall(tmp_path: Path) -> None:
    announcement = WeightsAnnouncement(policy_version=1, num_bytes=95, crc32=0, path="/nowhere")
    fetch = Fetch(announcement, tmp_path, chunk_bytes=10)
    assert fetch.wanted() == [(10 * number, 10) for number in range(WINDOW)]
    assert fetch.wanted() == []
    for number in range(3):
        assert fetch.take(Chunk(policy_version=1, offset=10 * number, data=np.zeros(10, np.uint8)))
    assert fetch.wanted() == [(80, 10), (90, 5)]
    # The fourth was lost: those after it are of no use.
    assert not fetch.take(Chunk(policy_version=1, offset=40, data=np.zeros(10, np.uint8)))
    fetch.begin_again()
    assert fetch.wanted() == [(30, 10)]
    assert fetch.take(Chunk(policy_version=1, offset=30, data=np.zeros(10, np.uint8)))
    assert fetch.wanted() == [(40, 10)]
    fetch.discard()


def test_who_waits_for_a_turn_gets_all_that_it_has_asked_for() -> None:
    traffic = ChunkTraffic(repeat_s=60.0, timeout_s=60.0)
    requests = [
        ChunkRequest(server_id="x", policy_version=1, offset=offset, num_bytes=1) for offset in range(3)
    ]

    def may_send(peer: int, number: int) -> bool:
        return traffic.may_send(
            b"%d" % peer, requests[number], zmq.Frame(), is_last=number == 2, joined=False
        )

    assert all(may_send(peer, 2) for peer in range(MAX_STRANGERS))
    assert not any(may_send(99, number) for number in range(3))
    traffic.heard(b"0")
    assert [(peer, request) for peer, request, _ in traffic.waiting()] == [(b"99", one) for one in requests]
    assert all(may_send(99, number) for number in range(3))
    assert not may_send(99, 1), "it was just sent"
    assert traffic.waiting() == []


def test_a_server_outlives_a_disk_that_takes_no_version(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    path = weights(tmp_path, "one")
    content = path.read_bytes()
    learner.publish(1, path)
    path.unlink()
    (tmp_path / "of-server").touch()
    server = subscriber(closing, links, tmp_path)
    wait_for(lambda: server._complaints.counts["versions that could not be written"] > 1)
    assert server.poll() is None
    (tmp_path / "of-server").unlink()
    version, fetched = wait_for(server.poll)
    assert version == 1
    assert fetched.read_bytes() == content


@contextlib.contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file of this process may be larger: not even the one that its output goes to, so not for long."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_chunk_that_the_disk_takes_in_part_is_not_taken_for_written(tmp_path: Path) -> None:
    announcement = WeightsAnnouncement(policy_version=1, num_bytes=3_000, crc32=0, path="/nowhere")
    fetch = Fetch(announcement, tmp_path, chunk_bytes=3_000)
    chunk = Chunk(policy_version=1, offset=0, data=np.zeros(3_000, np.uint8))
    with pytest.raises(OSError, match="File too large"), small_files(1_000):
        fetch.take(chunk)
    fetch.discard()
    assert [*tmp_path.iterdir()] == []


def test_a_pipe_in_place_of_the_weights_is_not_waited_for(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WireError, match="expected a regular file"):
        learner.publish(1, tmp_path / "pipe")
    path = weights(tmp_path, "one")
    learner.publish(1, path)
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    server = subscriber(closing, links, tmp_path)
    version, fetched = wait_for(server.poll)
    assert version == 1
    assert fetched.read_bytes() == content


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_peers_that_ask_for_chunks_and_never_read_take_little_memory(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    links = msgspec.structs.replace(links, max_message_bytes=16 * 1024 * 1024)
    learner = publisher(closing, links)
    server = subscriber(closing, links, tmp_path, "server")
    load(learner, 1, weights(tmp_path, "one", num_bytes=40_000_000), server)
    before = resident_bytes()
    context = closing.enter_context(zmq.Context())
    for number in range(100):
        dealer = closing.enter_context(context.socket(zmq.DEALER))
        dealer.linger = 0
        dealer.rcvhwm = 1
        dealer.rcvbuf = 4096
        dealer.connect(links.weights_fetch)
        for offset in range(10):
            request = ChunkRequest(
                server_id=f"s{number}",
                policy_version=1,
                offset=CHUNK_BYTES * offset,
                num_bytes=CHUNK_BYTES,
            )
            dealer.send_multipart(encode(request))
    # The learner has read them all when it answers the last.
    wait_for(lambda: "s99" in learner.loaded())
    # What the peers hold is in this process, too: some chunks each for the few whose turn it is.
    assert resident_bytes() - before < 200_000_000
    # A server of the run has its turn all the same.
    second = weights(tmp_path, "two", num_bytes=10_000_000)
    content = second.read_bytes()
    learner.publish(2, second)
    second.unlink()
    version, fetched = wait_for(server.poll)
    assert version == 2
    assert fetched.read_bytes() == content


def test_a_peer_that_does_not_read_its_chunk_is_cut_off(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=0.5)
    learner = publisher(closing, links)
    learner.publish(1, weights(tmp_path, "one"))
    context = closing.enter_context(zmq.Context())
    dealer = closing.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    monitor = closing.enter_context(dealer.get_monitor_socket(zmq.Event.DISCONNECTED))
    dealer.connect(links.weights_fetch)
    request = ChunkRequest(server_id="x", policy_version=1, offset=0, num_bytes=1000)
    dealer.send_multipart(encode(request))
    # It neither asks for the next one, nor says anything else.
    assert monitor.poll(int(WAIT_S * 1000))
    assert recv_monitor_message(monitor)["event"] == zmq.Event.DISCONNECTED


def test_a_flood_of_subscriptions_takes_no_memory(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    server = subscriber(closing, links, tmp_path)
    context = closing.enter_context(zmq.Context())
    flood = closing.enter_context(context.socket(zmq.DEALER))
    flood.linger = 0
    flood.sndhwm = 0
    flood.connect(links.weights_fetch)
    before = resident_bytes()
    for number in range(50_000):
        flood.send_multipart([b"\x01" + number.to_bytes(8, "big") * 8])
    load(learner, 1, weights(tmp_path, "one"), server)
    wait_for(lambda: learner.malformed >= 40_000)
    assert resident_bytes() - before < 100_000_000


def test_what_can_not_be_published(links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path) -> None:
    learner = publisher(closing, links)
    with pytest.raises(WireError, match=r"can't publish version 1 from .*missing"):
        learner.publish(1, tmp_path / "missing")
    with pytest.raises(WireError, match="empty file"):
        learner.publish(1, weights(tmp_path, "empty", num_bytes=0))
    learner.publish(1, weights(tmp_path, "one"))
    with pytest.raises(WireError, match="expected a policy version above 1, got 1"):
        learner.publish(1, tmp_path / "one")


def next_chunk(dealer: zmq.Socket[bytes]) -> Chunk:
    """Whoever has said a word hears of new versions, too: those are left out."""
    while True:
        assert dealer.poll(int(WAIT_S * 1000))
        message = decode(dealer.recv_multipart(), LearnerToServer, max_bytes=1 << 24)
        if isinstance(message, Chunk):
            return message


def test_malformed_requests_and_wild_offsets_do_no_harm(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    learner.publish(1, weights(tmp_path, "one"))
    context = closing.enter_context(zmq.Context())
    dealer = closing.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    dealer.connect(links.weights_fetch)
    dealer.send_multipart([b"garbage"])
    sizes = []
    for version, offset in ((1, 2**63 + 1), (9, 0), (1, NUM_BYTES - 10)):
        request = ChunkRequest(server_id="x", policy_version=version, offset=offset, num_bytes=1000)
        dealer.send_multipart(encode(request))
        sizes.append(len(next_chunk(dealer).data))
    assert sizes == [0, 0, 10]
    assert learner.malformed == 1
    dealer.send_multipart(encode(WeightsLoaded(server_id="x", policy_version=5, seconds=0.1)))
    wait_for(lambda: learner.loaded() == {"x": 5})


def test_a_version_larger_than_the_disk_is_not_begun(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    context = closing.enter_context(zmq.Context())
    router = closing.enter_context(context.socket(zmq.ROUTER))
    router.bind(links.weights_fetch)
    server = subscriber(closing, links, tmp_path)
    wild = WeightsAnnouncement(policy_version=1, num_bytes=2**60, crc32=0, path="/nowhere", publisher_start=1)
    for _ in range(3):
        assert router.poll(int(WAIT_S * 1000))
        peer, *frames = router.recv_multipart()
        assert isinstance(decode(frames, ServerToLearner, max_bytes=1 << 20), LatestRequest)
        router.send_multipart([peer, b"garbage"])
        router.send_multipart([peer, *encode(wild)])
    assert server.malformed >= 1
    assert server.poll() is None
    assert list((tmp_path / "of-server").iterdir()) == []


def test_an_address_in_use_is_an_address_error(links: LinksConfig, closing: contextlib.ExitStack) -> None:
    publisher(closing, links)
    with pytest.raises(AddressError, match="another process listens there"):
        publisher(closing, links)


def test_a_full_window_and_two_announcements_find_room_however_much_was_read() -> None:
    # A queue of no line at all: what the server has not read is in it, as behind a line that is slow.
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as learner,
        context.socket(zmq.DEALER) as server,
    ):
        learner.sndhwm, server.rcvhwm = SEND_QUEUE, 1
        learner.router_mandatory = True
        learner.bind("inproc://weights")
        server.connect("inproc://weights")
        server.send(b"latest")
        peer = learner.recv_multipart()[0]
        under_way = 0
        for _ in range(5 * SEND_QUEUE):
            learner.poll(0)
            while under_way < WINDOW + 2:
                learner.send_multipart([peer, b"chunk"], zmq.NOBLOCK)
                under_way += 1
            server.recv(zmq.NOBLOCK)
            under_way -= 1
