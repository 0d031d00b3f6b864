"""The policy servers that a learner knows: which version each serves, and who is waited for.

Waited for is only whoever has served a version of this very learner: a stranger, or a server that still
starts, holds nobody up. One that stays late for `patience_s` is left behind until it has caught up.
"""

import logging
import threading
import time
from dataclasses import dataclass

from trieline.common.complaints import Complaints
from trieline.wire.messages import ChunkRequest, LatestRequest, WeightsLoaded

logger = logging.getLogger(__name__)

MAX_SERVERS = 1_024


@dataclass(slots=True)
class _Server:
    """What one policy server last said."""

    peer: bytes = b""
    heard_at: float = 0.0
    policy_version: int = -1
    publisher_start: int = 0
    joined: bool = False
    """It has served a version of this learner."""
    left_behind: bool = False


class ServerRoll:
    """Of one start of a learner. Any thread may call."""

    def __init__(self, publisher_start: int, *, peer_timeout_s: float, complaints: Complaints) -> None:
        self.changed = threading.Condition()
        self._start = publisher_start
        self._patience_s = peer_timeout_s
        self._complaints = complaints
        self._servers: dict[str, _Server] = {}
        self._newest = -1
        self._published_at = 0.0

    def wake_all(self) -> None:
        """Let whoever waits look again."""
        with self.changed:
            self.changed.notify_all()

    def published(self, policy_version: int) -> None:
        """From now on the servers are waited for to load this version."""
        with self.changed:
            self._newest = policy_version
            self._published_at = time.monotonic()

    def hear(self, peer: bytes, message: LatestRequest | ChunkRequest | WeightsLoaded) -> None:
        """Note what a server says; `peer` is where it is answered."""
        with self.changed:
            server = self._servers.get(message.server_id)
            if server is None:
                self._servers = self._live()
                if len(self._servers) >= MAX_SERVERS:
                    self._complaints.add("policy servers beyond the most that are served", message.server_id)
                    return
                server = self._servers[message.server_id] = _Server()
            server.peer, server.heard_at = peer, time.monotonic()
            if isinstance(message, WeightsLoaded):
                self._note_loaded(message.server_id, server, message)
            self.changed.notify_all()

    def forget(self, peer: bytes) -> None:
        """This peer is gone."""
        with self.changed:
            gone = [server_id for server_id, server in self._servers.items() if server.peer == peer]
            for server_id in gone:
                logger.info("policy server %s is gone", server_id)
                del self._servers[server_id]
            self.changed.notify_all()

    def peers(self, *, silent_s: float = 0.0) -> list[bytes]:
        """Where the live servers are answered, those that said nothing for `silent_s`."""
        with self.changed:
            before = time.monotonic() - silent_s
            return [server.peer for server in self._live().values() if server.heard_at <= before]

    def loaded(self) -> dict[str, int]:
        """The version that each live policy server serves, -1 before its first."""
        with self.changed:
            return {server_id: server.policy_version for server_id, server in self._live().items()}

    def has_joined(self, server_id: str) -> bool:
        """Whether it has served a version of this learner."""
        with self.changed:
            server = self._servers.get(server_id)
            return server is not None and server.joined

    def is_loaded(self, policy_version: int) -> bool:
        """Whether a live server serves this version or a newer one, and no other is waited for."""
        live = self._live()
        late = {name: one for name, one in live.items() if not self._serves(one, policy_version)}
        if len(late) == len(live):
            return False
        waited_for = {name: one for name, one in late.items() if one.joined and not one.left_behind}
        if waited_for and time.monotonic() - self._published_at > self._patience_s:
            for name, server in waited_for.items():
                server.left_behind = True
                logger.warning(
                    "policy server %s still serves version %d %.0f s after %d was published: it is left "
                    "behind, and what it samples may be too old to train on",
                    name, server.policy_version, self._patience_s, policy_version,
                )  # fmt: skip
            return True
        return not waited_for

    def late(self, policy_version: int) -> str:
        """Who does not serve this version, for an error message."""
        with self.changed:
            late = [
                f"{server_id} serves {server.policy_version}"
                for server_id, server in self._live().items()
                if not self._serves(server, policy_version)
            ]
        return ", ".join(late) or "no policy server lives"

    def _note_loaded(self, server_id: str, server: _Server, message: WeightsLoaded) -> None:
        server.policy_version = message.policy_version
        server.publisher_start = message.publisher_start
        if message.publisher_start == self._start and not server.joined:
            server.joined = True
            logger.info("policy server %s joined", server_id)
        if server.left_behind and self._serves(server, self._newest):
            server.left_behind = False
            logger.info("policy server %s has caught up with version %d", server_id, self._newest)

    def _live(self) -> dict[str, _Server]:
        long_ago = time.monotonic() - self._patience_s
        return {
            server_id: server for server_id, server in self._servers.items() if server.heard_at >= long_ago
        }

    def _serves(self, server: _Server, policy_version: int) -> bool:
        # Versions of another start of the learner say nothing: it may have resumed from an older one.
        if server.publisher_start == self._start:
            return server.policy_version >= policy_version
        return server.publisher_start == 0 and server.policy_version == policy_version
