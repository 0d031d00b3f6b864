"""The requests in front of the engine: a queue for each peer, from which the engine is fed in turn.

So one peer that asks for a lot delays the others by a share, and when all places are taken, whoever has most
of them gives one up.
"""

from collections import OrderedDict

from trieline.learner.policy_server.engine import Ticket
from trieline.learner.policy_server.errors import OverloadedError
from trieline.wire.messages import GenerateRequest


class WaitingRequests:
    """At most `limit` requests of all peers together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The peer whose turn it is first. A peer's requests by number, in the order in which they came.
        self._peers: OrderedDict[bytes, dict[int, GenerateRequest]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, peer: bytes, request: GenerateRequest) -> Ticket | None:
        """Take a request in; returns the one that gave its place up for it.

        Raises:
            OverloadedError: all places are taken, and no peer has more than one above this one's.
        """
        own = self._peers.get(peer, {})
        displaced = None
        if self._count >= self._limit:
            largest = max(self._peers, key=lambda other: len(self._peers[other]))
            if len(self._peers[largest]) <= len(own) + 1:
                msg = f"{self._count} requests wait already, of at most {self._limit}"
                raise OverloadedError(msg)
            displaced = largest, next(reversed(self._peers[largest]))
            self.cancel(displaced)
        self._peers.setdefault(peer, {})[request.request_id] = request
        self._count += 1
        return displaced

    def take(self) -> tuple[bytes, GenerateRequest]:
        """The oldest request of the peer whose turn it is. There must be one."""
        peer, requests = next(iter(self._peers.items()))
        request = requests[next(iter(requests))]
        self._peers.move_to_end(peer)
        self.cancel((peer, request.request_id))
        return peer, request

    def cancel(self, ticket: Ticket) -> bool:
        """Forget one request; False if it does not wait here."""
        peer, request_id = ticket
        requests = self._peers.get(peer, {})
        if requests.pop(request_id, None) is None:
            return False
        self._count -= 1
        if not requests:
            del self._peers[peer]
        return True

    def drain(self) -> list[Ticket]:
        """Forget all; whose they were."""
        tickets = [(peer, number) for peer, requests in self._peers.items() for number in requests]
        self._peers.clear()
        self._count = 0
        return tickets
