"""The learner's end of the weights link: announces versions, serves their files in chunks, knows who loaded.

An announcement goes to each server that has said a word, over the connection by which it came: nobody's
subscriptions are kept. A server that did not hear it asks for the latest with its next heartbeat.

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
from trieline.common.regular_file import open_regular
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
)
from trieline.wire.sockets import Waker
from trieline.wire.weights_chunks import ChunkTraffic
from trieline.wire.weights_roll import ServerRoll

logger = logging.getLogger(__name__)

# Chunks and announcements for each server. Full: what is sent is dropped, and asked for again.
SEND_QUEUE = 4
# Of a server's request.
REQUEST_BYTES = 16 * 1024
# Whoever asks for more gets as much.
CHUNK_BYTES = 2 * 1024 * 1024
KEPT_VERSIONS = 2
# A server that was silent for this many heartbeats is asked, so to speak, whether it is still there.
SILENT_HEARTBEATS = 2
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


class WeightsPublisher:
    """One thread owns the socket; public methods may be called from any thread."""

    def __init__(self, links: LinksConfig) -> None:
        self.malformed = 0
        self._links = links
        self._start = time.time_ns()
        self._to_publish: queue.SimpleQueue[tuple[int, Path, BinaryIO, int | None]] = queue.SimpleQueue()
        self._versions: deque[_Version] = deque()
        self._last_version = -1
        self._complaints = Complaints("weights")
        self._roll = ServerRoll(self._start, peer_timeout_s=links.peer_timeout_s, complaints=self._complaints)
        self._chunks = ChunkTraffic(repeat_s=links.heartbeat_s, timeout_s=links.peer_timeout_s)
        self._next_look = 0.0
        self._failure: Exception | None = None
        self._closing = False
        self._waker = Waker()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._thread = threading.Thread(target=self._run, name="weights-publisher", daemon=True)

    def start(self) -> None:
        """Bind the socket and begin to serve. Raises AddressError."""
        context = zmq.Context()
        try:
            self._router = context.socket(zmq.ROUTER)
            sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
            self._router.maxmsgsize = REQUEST_BYTES
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
            file = os.fdopen(open_regular(path), "rb", buffering=0)
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
        self._roll.published(policy_version)
        self._to_publish.put((policy_version, path.absolute(), file, crc32))
        self._waker.wake()

    def loaded(self) -> dict[str, int]:
        """The version that each live policy server serves, -1 before its first."""
        return self._roll.loaded()

    def wait_loaded(self, policy_version: int, timeout_s: float) -> None:
        """Wait until a live policy server serves this version or a newer one, and all that are waited for do.

        A server that started with the file of this very version counts. Who is waited for: see `ServerRoll`.
        Raises PeerTimeoutError that names the late ones.
        """
        deadline = time.monotonic() + timeout_s
        with self._roll.changed:
            while not self._failure and not self._roll.is_loaded(policy_version):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                # Looked at again without news, too: who lives and who is late is a matter of time.
                self._roll.changed.wait(min(left, self._links.heartbeat_s))
            else:
                self._expect_running()
                return
        msg = (
            f"waited {timeout_s:g} s for the policy servers at {self._links.weights_fetch} to load version "
            f"{policy_version}: {self._roll.late(policy_version)}"
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
                if time.monotonic() >= self._next_look:
                    self._next_look = time.monotonic() + self._links.heartbeat_s
                    self._look_for_silent()
                for peer, request in self._chunks.next_turns():
                    self._send_chunk(peer, request)
        except Exception as error:
            logger.exception("The weights publisher at %s failed", self._links.weights_fetch)
            with self._roll.changed:
                self._failure = error
                self._roll.changed.notify_all()

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
        for peer in self._roll.peers():
            self._send(peer, announcement)

    def _look_for_silent(self) -> None:
        if self._versions:
            for peer in self._roll.peers(silent_s=SILENT_HEARTBEATS * self._links.heartbeat_s):
                self._send(peer, self._versions[-1].announcement)

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
        self._roll.hear(identity, message)
        if isinstance(message, ChunkRequest):
            self._send_chunk(identity, message)
            return
        self._chunks.heard(identity)
        if isinstance(message, LatestRequest) and self._versions:
            self._send(identity, self._versions[-1].announcement)

    def _send_chunk(self, peer: bytes, request: ChunkRequest) -> None:
        sizes = {one.announcement.policy_version: one.announcement.num_bytes for one in self._versions}
        is_last = request.offset + request.num_bytes >= sizes.get(request.policy_version, 0)
        joined = self._roll.has_joined(request.server_id)
        if self._chunks.may_send(peer, request, is_last=is_last, joined=joined):
            self._send(peer, self._chunk(request))

    def _chunk(self, request: ChunkRequest) -> Chunk:
        data = b""
        for version in self._versions:
            if version.announcement.policy_version == request.policy_version:
                # The offset comes from a peer, and pread takes no more than a signed 64-bit one.
                offset = min(request.offset, version.announcement.num_bytes)
                data = os.pread(version.file.fileno(), min(request.num_bytes, CHUNK_BYTES), offset)
        return Chunk(
            policy_version=request.policy_version, offset=request.offset, data=np.frombuffer(data, np.uint8)
        )

    def _send(self, identity: bytes, message: LearnerToServer) -> None:
        try:
            self._router.send_multipart([identity, *encode(message)], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._roll.forget(identity)
                self._chunks.forget(identity)
            elif error.errno != zmq.EAGAIN:
                raise
