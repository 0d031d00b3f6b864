"""The learner's end of the weights link: announces versions, serves their files in chunks, knows who loaded.

The files of the last two versions stay open, so a fetch that is under way ends even when the file is unlinked
after that; the owner may delete a version's file once two newer ones are published.
"""

import fcntl
import logging
import os
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zmq

from trieline.common.complaints import Complaints
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, PeerTimeoutError, WireError
from trieline.wire.messages import (
    Chunk,
    ChunkRequest,
    LatestRequest,
    LearnerToServer,
    ServerToLearner,
    WeightsAnnouncement,
    WeightsLoaded,
)
from trieline.wire.sockets import Waker

logger = logging.getLogger(__name__)

# Announcements: a full queue to a server drops the new one; the server asks for the latest every heartbeat.
ANNOUNCE_QUEUE = 100
# Chunks for each server. Full: the chunk is dropped, and asked for again.
CHUNK_QUEUE = 16
KEPT_VERSIONS = 2
MAX_SERVERS = 1_024
CRC_BLOCK_BYTES = 4 * 1024 * 1024


def file_crc32(file: BinaryIO) -> int:
    """CRC-32 of a whole unbuffered file from its start: 270 MB in about 0.15 s, with the GIL released."""
    crc, offset = 0, 0
    while block := os.pread(file.fileno(), CRC_BLOCK_BYTES, offset):
        crc = zlib.crc32(block, crc)
        offset += len(block)
    return crc


@dataclass(frozen=True, slots=True)
class _Version:
    announcement: WeightsAnnouncement
    file: BinaryIO


@dataclass(slots=True)
class _Server:
    """What one policy server last said."""

    heard_at: float
    policy_version: int = -1
    publisher_start: int = 0


class WeightsPublisher:
    """One thread owns both sockets; public methods may be called from any thread."""

    def __init__(self, links: LinksConfig) -> None:
        self.malformed = 0
        self._links = links
        self._start = time.time_ns()
        self._to_publish: queue.SimpleQueue[tuple[int, Path, BinaryIO, int | None]] = queue.SimpleQueue()
        self._versions: deque[_Version] = deque()
        self._last_version = -1
        self._servers: dict[str, _Server] = {}
        self._changed = threading.Condition()
        self._complaints = Complaints("weights")
        self._failure: Exception | None = None
        self._closing = False
        self._waker = Waker()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._thread = threading.Thread(target=self._run, name="weights-publisher", daemon=True)

    def start(self) -> None:
        """Bind both sockets and begin to serve. Raises AddressError."""
        context = zmq.Context()
        try:
            self._announce = context.socket(zmq.PUB)
            sockets.limit(self._announce, self._links, send_queue=ANNOUNCE_QUEUE)
            sockets.bind(self._announce, self._links.weights_announce)
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=CHUNK_QUEUE)
            self._router.router_mandatory = True
            sockets.bind(self._router, self._links.weights_fetch)
        except WireError:
            context.destroy(linger=0)
            raise
        self._context = context
        self._thread.start()

    def publish(self, policy_version: int, path: Path, *, crc32: int | None = None) -> None:
        """Announce a complete file that will not change as long as it is held here; returns at once.

        Its CRC-32, if it is not given, is taken before the announcement: reading 270 MB takes 0.15 s.
        Raises WireError if the version is not above the last one, or the file can't be read or is empty.
        """
        self._expect_running()
        if policy_version <= self._last_version:
            msg = f"expected a policy version above {self._last_version}, got {policy_version}"
            raise WireError(msg)
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            msg = f"can't publish version {policy_version} from {path}: {error}"
            raise WireError(msg) from error
        # Until the file is closed: its owner may write over what nobody holds.
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_size == 0:
            file.close()
            msg = f"can't publish version {policy_version} from {path}: expected weights, got an empty file"
            raise WireError(msg)
        self._last_version = policy_version
        self._to_publish.put((policy_version, path.absolute(), file, crc32))
        self._waker.wake()

    def loaded(self) -> dict[str, int]:
        """The version that each live policy server serves, -1 before its first."""
        with self._changed:
            return {server_id: server.policy_version for server_id, server in self._live().items()}

    def wait_loaded(self, policy_version: int, timeout_s: float) -> None:
        """Wait until every live policy server, and at least one, serves this version or a newer one.

        A server that started with the file of this very version counts. Raises PeerTimeoutError that names
        the late ones.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._failure or self._is_loaded(policy_version), timeout_s):
                self._expect_running()
                return
            late = [
                f"{server_id} serves {server.policy_version}"
                for server_id, server in self._live().items()
                if not self._serves(server, policy_version)
            ]
        msg = (
            f"waited {timeout_s:g} s for the policy servers at {self._links.weights_fetch} to load version "
            f"{policy_version}: {', '.join(late) or 'no policy server lives'}"
        )
        raise PeerTimeoutError(msg)

    def close(self) -> None:
        """End the thread, close sockets and files. Idempotent."""
        if self._context is not None:
            context, self._context = self._context, None
            self._closing = True
            self._waker.wake()
            self._thread.join()
            context.destroy(linger=sockets.LINGER_MS)
        self._waker.close()
        for version in self._versions:
            version.file.close()
        while not self._to_publish.empty():
            self._to_publish.get()[2].close()

    def _expect_running(self) -> None:
        if self._failure is not None:
            msg = f"the weights publisher at {self._links.weights_fetch} failed: {self._failure}"
            raise WireError(msg) from self._failure

    def _live(self) -> dict[str, _Server]:
        long_ago = time.monotonic() - self._links.peer_timeout_s
        return {
            server_id: server for server_id, server in self._servers.items() if server.heard_at >= long_ago
        }

    def _is_loaded(self, policy_version: int) -> bool:
        live = self._live().values()
        return bool(live) and all(self._serves(server, policy_version) for server in live)

    def _serves(self, server: _Server, policy_version: int) -> bool:
        # Versions of another start of the learner say nothing: it may have resumed from an older one.
        if server.publisher_start == self._start:
            return server.policy_version >= policy_version
        return server.publisher_start == 0 and server.policy_version == policy_version

    # ---- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._router, zmq.POLLIN)
            poller.register(self._waker.fileno(), zmq.POLLIN)
            while not self._closing:
                poller.poll(max(1, round(self._links.heartbeat_s * 1000)))
                self._waker.drain()
                while not self._to_publish.empty():
                    self._make_public(*self._to_publish.get())
                self._answer_all()
        except Exception as error:
            logger.exception("The weights publisher at %s failed", self._links.weights_fetch)
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _make_public(self, policy_version: int, path: Path, file: BinaryIO, crc32: int | None) -> None:
        status = os.fstat(file.fileno())
        announcement = WeightsAnnouncement(
            policy_version=policy_version,
            num_bytes=status.st_size,
            crc32=file_crc32(file) if crc32 is None else crc32,
            path=str(path),
            publisher_start=self._start,
            modified_ns=status.st_mtime_ns,
        )
        self._versions.append(_Version(announcement, file))
        while len(self._versions) > KEPT_VERSIONS:
            self._versions.popleft().file.close()
        self._announce.send_multipart(encode(announcement), zmq.NOBLOCK)

    def _answer_all(self) -> None:
        while not self._closing:
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._answer(identity.bytes, frames)

    def _answer(self, identity: bytes, frames: Sequence[InFrame]) -> None:
        try:
            message = decode(frames, ServerToLearner, max_bytes=self._links.max_message_bytes)
        except MessageError as error:
            self.malformed += 1
            self._complaints.add("malformed messages from policy servers", error)
            return
        self._hear(message)
        match message:
            case LatestRequest() if self._versions:
                self._send(identity, self._versions[-1].announcement)
            case ChunkRequest():
                self._send(identity, self._chunk(message))

    def _hear(self, message: LatestRequest | ChunkRequest | WeightsLoaded) -> None:
        with self._changed:
            server = self._servers.get(message.server_id)
            if server is None:
                self._servers = self._live()
                if len(self._servers) >= MAX_SERVERS:
                    self._complaints.add("policy servers beyond the most that are served", message.server_id)
                    return
                server = self._servers[message.server_id] = _Server(heard_at=0)
                logger.info("policy server %s joined", message.server_id)
            server.heard_at = time.monotonic()
            if isinstance(message, WeightsLoaded):
                server.policy_version = message.policy_version
                server.publisher_start = message.publisher_start
            self._changed.notify_all()

    def _chunk(self, request: ChunkRequest) -> Chunk:
        data = b""
        for version in self._versions:
            if version.announcement.policy_version == request.policy_version:
                # The offset comes from a peer, and pread takes no more than a signed 64-bit one.
                offset = min(request.offset, version.announcement.num_bytes)
                data = os.pread(version.file.fileno(), request.num_bytes, offset)
        return Chunk(
            policy_version=request.policy_version, offset=request.offset, data=np.frombuffer(data, np.uint8)
        )

    def _send(self, identity: bytes, message: LearnerToServer) -> None:
        try:
            self._router.send_multipart([identity, *encode(message)], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            # Gone, or it does not read: it asks again.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
