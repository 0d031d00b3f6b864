"""The policy server's end of the weights link: always the newest version of which it has the whole file.

A version is complete when its size and CRC-32 are those announced. The learner's own file is taken where it
is visible and unchanged since it was summed, or has the right sum; elsewhere the file is fetched in chunks
beside its final name and renamed when it is complete. The latest announcement is asked for at every
heartbeat, so that nothing depends on having heard one.
"""

import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zmq

from trieline.common.checksum import file_crc32
from trieline.common.complaints import Complaints
from trieline.common.regular_file import open_regular
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.connection import Connection
from trieline.wire.errors import MessageError
from trieline.wire.messages import (
    Chunk,
    ChunkRequest,
    LatestRequest,
    LearnerToServer,
    ServerToLearner,
    WeightsAnnouncement,
    WeightsLoaded,
)
from trieline.wire.socket_thread import Context, SocketThread
from trieline.wire.weights_fetch import Fetch, file_name
from trieline.wire.weights_neighbours import Neighbours
from trieline.wire.weights_publisher import CHUNK_BYTES

logger = logging.getLogger(__name__)

# Requests, while the learner does not read: the new one is dropped, and made again with the next heartbeat.
REQUEST_QUEUE = 64
READ_AT_ONCE = 100
# A fetch in which nothing came for this many heartbeats asks again for what is missing.
STALLED_HEARTBEATS = 3
KEPT_FILES = 2
# How often a learner that is away is tried.
AWAY_S = 0.1
# How often it is looked whether a neighbour has fetched a version.
NEIGHBOUR_S = 0.05
# After so many heartbeats without one there is no learner.
ALONE_HEARTBEATS = 3
# (publisher_start, policy_version)
Key = tuple[int, int]


class WeightsSubscriber:
    """One thread owns the socket; public methods may be called from any thread."""

    def __init__(
        self, links: LinksConfig, *, server_id: str, fetch_folder: Path, neighbours: str = ""
    ) -> None:
        """`fetch_folder` belongs to this server alone; it is made if a version has to be fetched.

        `neighbours`: the pattern of such folders beside it, of other servers; "": each fetches for itself.
        """
        self.corrupt = 0
        """Files whose CRC-32 was wrong."""
        self.malformed = 0
        self._links = links
        self._server_id = server_id
        self._folder = fetch_folder
        self._lock = threading.Lock()
        self._ready: tuple[int, Path] | None = None
        self._loaded: WeightsLoaded | None = None
        self._report_due = False
        self._starts: dict[int, int] = {}
        self._latest: WeightsAnnouncement | None = None
        self._complete: Key | None = None
        self._unusable_local: Key | None = None
        self._fetch: Fetch | None = None
        self._neighbours = Neighbours(fetch_folder, neighbours, patience_s=links.peer_timeout_s)
        self._waits = False
        """For the fetch of a neighbour."""
        self._reached_at = time.monotonic()
        self._fetched: deque[Path] = deque()
        self._complaints = Complaints("weights")
        self._next_heartbeat = 0.0
        self._thread = SocketThread(
            f"weights subscriber of {server_id}",
            open_sockets=self._connect,
            turn=self._turn,
            at_end=self._drop_fetch,
        )

    def start(self) -> None:
        """Begin to connect; a learner that is not there yet is tried again and again. Raises AddressError."""
        self._reached_at = time.monotonic()
        self._thread.start()

    def poll(self) -> tuple[int, Path] | None:
        """The newest complete version and its safetensors file, once; None if there is nothing new."""
        self._thread.expect_running()
        with self._lock:
            ready, self._ready = self._ready, None
            return ready

    def is_alone(self) -> bool:
        """No learner was there for some heartbeats. One that is there will announce its weights."""
        return time.monotonic() - self._reached_at > ALONE_HEARTBEATS * self._links.heartbeat_s

    def report_loaded(self, version: int, seconds: float) -> None:
        """Tell the learner, now and with every heartbeat, that this version is being served."""
        with self._lock:
            self._loaded = WeightsLoaded(
                server_id=self._server_id,
                policy_version=version,
                seconds=seconds,
                publisher_start=self._starts.get(version, 0),
            )
            self._report_due = True
        self._thread.wake()

    def close(self) -> None:
        """End the thread and close the socket; what was fetched stays. Idempotent."""
        self._thread.close()

    # ---- in the thread -------------------------------------------------------------------------------------

    def _connect(self, context: Context) -> Sequence[zmq.Socket[bytes]]:
        self._dealer = context.socket(zmq.DEALER)
        sockets.limit(self._dealer, self._links, send_queue=REQUEST_QUEUE)
        # Nothing is queued for a learner that is away.
        self._dealer.immediate = True
        address = self._links.weights_fetch
        self._connection = Connection(self._dealer, address, self._links.keys, Complaints(address))
        return [self._dealer, self._connection.monitor]

    def _turn(self) -> float:
        for up in self._connection.news():
            logger.info("%s the learner at %s", "found" if up else "lost", self._links.weights_fetch)
        all_read = self._read_some()
        if time.monotonic() >= self._next_heartbeat:
            reached = self._beat()
            pause_s = self._links.heartbeat_s if reached else min(self._links.heartbeat_s, AWAY_S)
            self._next_heartbeat = time.monotonic() + pause_s
        self._report()
        self._take_latest()
        if not all_read:
            return 0.0
        left_s = max(0.0, self._next_heartbeat - time.monotonic())
        return min(left_s, NEIGHBOUR_S) if self._waits else left_s

    def _beat(self) -> bool:
        """Ask for the latest and report; False if the learner is away."""
        reached = self._send(LatestRequest(server_id=self._server_id))
        if reached:
            self._reached_at = time.monotonic()
        with self._lock:
            self._report_due = self._loaded is not None
        fetch = self._fetch
        if fetch is not None and fetch.silent_s() > STALLED_HEARTBEATS * self._links.heartbeat_s:
            self._complaints.add(
                "fetches that stalled", f"version {fetch.announcement.policy_version}, {fetch.state()}"
            )
            fetch.begin_again()
            self._ask_for_chunks(fetch)
        return reached

    def _report(self) -> None:
        with self._lock:
            loaded = self._loaded if self._report_due else None
            self._report_due = False
        if loaded is not None:
            self._send(loaded)

    def _read_some(self) -> bool:
        """True if nothing more waits."""
        for _ in range(READ_AT_ONCE):
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            self._handle(frames)
        return False

    def _handle(self, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, LearnerToServer, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self.malformed += 1
            self._complaints.add("malformed messages from the learner", error)
            return
        if isinstance(message, Chunk):
            with self._fetching():
                self._take_chunk(message)
        elif self._latest is None or _is_newer(message, self._latest):
            self._latest = message

    def _take_latest(self) -> None:
        """Make the latest version complete, once the fetch of an earlier one is through."""
        latest, self._waits = self._latest, False
        if latest is None or self._fetch is not None or _key(latest) == self._complete:
            return
        if self._unusable_local != _key(latest):
            if self._is_whole(Path(latest.path), latest):
                self._offer(latest, Path(latest.path))
                return
            self._unusable_local = _key(latest)
        with self._fetching():
            self._begin_fetch(latest)

    def _is_whole(self, path: Path, announcement: WeightsAnnouncement) -> bool:
        try:
            with os.fdopen(open_regular(path), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if status.st_size != announcement.num_bytes:
                    return False
                # The very file that the learner has just summed: reading 270 MB again would double the
                # time of a swap (0.15 s for each pass, more on busy cores) and find nothing.
                if status.st_mtime_ns == announcement.modified_ns:
                    return True
                whole = file_crc32(file) == announcement.crc32
        except OSError:
            # Not this machine's file system, or gone already.
            return False
        self.corrupt += not whole
        return whole

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        """A disk that is full for now ends one fetch, not the server, which goes on with what it has."""
        try:
            yield
        except OSError as error:
            self._complaints.add("versions that could not be written", f"{error}; fetched again")
            self._drop_fetch()
            # Not only with the fetch: there may have been none yet.
            self._latest = None

    def _begin_fetch(self, announcement: WeightsAnnouncement) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = file_name(announcement)
        # Before whoever fetches is waited for, and once more when it may have just ended.
        if self._take_neighbours(announcement, name):
            return
        self._waits = not self._neighbours.begin(name)
        if self._waits or self._take_neighbours(announcement, name):
            return
        free = shutil.disk_usage(self._folder).free
        if not 0 < announcement.num_bytes < free:
            wanted = f"version {announcement.policy_version} of {announcement.num_bytes} bytes"
            self._complaints.add(
                "versions empty or too large to fetch", f"{wanted}, {free} are free in {self._folder}"
            )
            # Asked for again with the next heartbeat.
            self._latest = None
            self._neighbours.end()
            return
        chunk_bytes = min(CHUNK_BYTES, self._links.max_message_bytes // 2)
        self._fetch = Fetch(announcement, self._folder, chunk_bytes)
        self._ask_for_chunks(self._fetch)

    def _take_neighbours(self, announcement: WeightsAnnouncement, name: str) -> bool:
        """Whether one of them had the whole file."""
        path = self._neighbours.link(name, lambda path: self._is_whole(path, announcement))
        if path is not None:
            self._keep(announcement, path)
        return path is not None

    def _ask_for_chunks(self, fetch: Fetch) -> None:
        for offset, num_bytes in fetch.wanted():
            request = ChunkRequest(
                server_id=self._server_id,
                policy_version=fetch.announcement.policy_version,
                offset=offset,
                num_bytes=num_bytes,
            )
            self._send(request)

    def _take_chunk(self, chunk: Chunk) -> None:
        fetch = self._fetch
        # Of a fetch that was given up, or asked for twice.
        if fetch is None or chunk.policy_version != fetch.announcement.policy_version:
            return
        if len(chunk.data) == 0 and chunk.offset == fetch.written < fetch.announcement.num_bytes:
            logger.info("version %d is gone before it was fetched", chunk.policy_version)
            self._drop_fetch()
            return
        if not fetch.take(chunk):
            return
        self._neighbours.goes_on()
        if fetch.written < fetch.announcement.num_bytes:
            self._ask_for_chunks(fetch)
        elif fetch.crc == fetch.announcement.crc32:
            self._fetch = None
            self._keep(fetch.announcement, fetch.finish())
        else:
            self.corrupt += 1
            self._complaints.add(
                "files with a wrong CRC-32", f"version {chunk.policy_version}; fetched again"
            )
            self._drop_fetch()

    def _drop_fetch(self) -> None:
        self._neighbours.end()
        if self._fetch is not None:
            self._fetch.discard()
            self._fetch = None
            # Asked for again with the next heartbeat, and not before.
            self._latest = None

    def _keep(self, announcement: WeightsAnnouncement, path: Path) -> None:
        self._neighbours.end()
        self._fetched.append(path)
        while len(self._fetched) > KEPT_FILES:
            self._fetched.popleft().unlink(missing_ok=True)
        self._offer(announcement, path)

    def _offer(self, announcement: WeightsAnnouncement, path: Path) -> None:
        self._complete = _key(announcement)
        with self._lock:
            self._ready = (announcement.policy_version, path)
            # Of the last few versions; a report of an older one is none of this publisher's.
            self._starts[announcement.policy_version] = announcement.publisher_start
            while len(self._starts) > 64:
                del self._starts[next(iter(self._starts))]

    def _send(self, message: ServerToLearner) -> bool:
        """False if the learner is away or does not read; every message of this end is repeated."""
        try:
            self._dealer.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def _key(announcement: WeightsAnnouncement) -> Key:
    return announcement.publisher_start, announcement.policy_version


def _is_newer(announcement: WeightsAnnouncement, than: WeightsAnnouncement) -> bool:
    if announcement.publisher_start != than.publisher_start:
        return True
    return announcement.policy_version > than.policy_version
