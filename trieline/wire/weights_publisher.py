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
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zmq

from trieline.common.checksum import file_crc32
from trieline.common.complaints import Complaints
from trieline.common.regular_file import open_regular
from trieline.wire import sockets
from trieline.wire.codec import InFrame, decode, encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import MessageError, PeerTimeoutError, WireError
from trieline.wire.gate import Gate
from trieline.wire.inbox import cut_off
from trieline.wire.messages import (
    Chunk,
    ChunkRequest,
    LatestRequest,
    LearnerToServer,
    ServerToLearner,
    WeightsAnnouncement,
)
from trieline.wire.socket_thread import Context, SocketThread
from trieline.wire.weights_chunks import WINDOW, ChunkTraffic
from trieline.wire.weights_roll import ServerRoll

logger = logging.getLogger(__name__)

# Chunks and announcements for each server. Full: what is sent is dropped, and asked for again. libzmq hears
# of what has left a queue when half of it has, so half of it has to hold a window.
SEND_QUEUE = 2 * (WINDOW + 2)
# Messages read before the chunks of those who wait get their turn.
READ_AT_ONCE = 1_000
# Of a server's request.
REQUEST_BYTES = 16 * 1024
# Whoever asks for more gets as much.
CHUNK_BYTES = 2 * 1024 * 1024
KEPT_VERSIONS = 2
# A server that was silent for this many heartbeats is asked, so to speak, whether it is still there.
SILENT_HEARTBEATS = 2


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
        self._thread = SocketThread(
            f"weights publisher at {links.weights_fetch}",
            open_sockets=self._bind,
            turn=self._turn,
            at_end=self._roll.wake_all,
            gate=Gate(links.keys, self._complaints),
        )

    def start(self) -> None:
        """Bind the socket and begin to serve. Raises AddressError."""
        self._thread.start()

    def publish(self, policy_version: int, path: Path, *, crc32: int | None = None) -> None:
        """Announce a complete file that will not change as long as it is held here; returns at once.

        Its CRC-32, if it is not given, is taken before the announcement: reading 270 MB takes 0.15 s.
        Raises WireError if the version is not above the last one, or the file can't be read or is empty.
        """
        self._thread.expect_running()
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
        self._thread.wake()

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
            while self._thread.failure is None and not self._roll.is_loaded(policy_version):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                # Looked at again without news, too: who lives and who is late is a matter of time.
                self._roll.changed.wait(min(left, self._links.heartbeat_s))
            else:
                self._thread.expect_running()
                return
        msg = (
            f"waited {timeout_s:g} s for the policy servers at {self._links.weights_fetch} to load version "
            f"{policy_version}: {self._roll.late(policy_version)}"
        )
        raise PeerTimeoutError(msg)

    def close(self) -> None:
        """End the thread, close sockets and files. Idempotent."""
        self._thread.close()
        for version in self._versions:
            version.file.close()
        while not self._to_publish.empty():
            self._to_publish.get()[2].close()

    # ---- in the thread -------------------------------------------------------------------------------------

    def _bind(self, context: Context) -> Sequence[zmq.Socket[bytes]]:
        self._router = context.socket(zmq.ROUTER)
        sockets.limit(self._router, self._links, send_queue=SEND_QUEUE)
        self._router.maxmsgsize = REQUEST_BYTES
        self._router.router_mandatory = True
        sockets.bind(self._router, self._links.weights_fetch, self._links.keys)
        return [self._router]

    def _turn(self) -> float:
        while not self._to_publish.empty():
            self._make_public(*self._to_publish.get())
        all_read = self._answer_some()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._links.heartbeat_s
            self._look_for_silent()
        for frame in self._chunks.overdue():
            self._complaints.add("fetches that take too long", "the connection is closed")
            cut_off(frame)
        for peer, request, frame in self._chunks.waiting():
            self._send_chunk(peer, request, frame)
        return self._links.heartbeat_s if all_read else 0.0

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

    def _answer_some(self) -> bool:
        """True if nothing more waits."""
        for _ in range(READ_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            self._answer(identity, frames)
        return False

    def _answer(self, identity: zmq.Frame, frames: Sequence[InFrame]) -> None:
        peer = identity.bytes
        try:
            message = decode(frames, ServerToLearner, max_bytes=REQUEST_BYTES)
        except MessageError as error:
            self.malformed += 1
            self._complaints.add("malformed messages from policy servers", error)
            return
        self._roll.hear(peer, message)
        if isinstance(message, ChunkRequest):
            self._send_chunk(peer, message, identity)
            return
        self._chunks.heard(peer)
        if isinstance(message, LatestRequest) and self._versions:
            self._send(peer, self._versions[-1].announcement)

    def _send_chunk(self, peer: bytes, request: ChunkRequest, frame: InFrame) -> None:
        sizes = {one.announcement.policy_version: one.announcement.num_bytes for one in self._versions}
        is_last = request.offset + request.num_bytes >= sizes.get(request.policy_version, 0)
        joined = self._roll.has_joined(request.server_id)
        if self._chunks.may_send(peer, request, frame, is_last=is_last, joined=joined):
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
