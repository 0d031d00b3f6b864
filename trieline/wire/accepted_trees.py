"""Accepted trees on their way from the thread that takes them to whoever trains on them."""

import queue
from typing import get_args

from trieline.wire.messages import Purpose, TreeDelivery


class AcceptedTrees:
    """A line for each purpose. One thread adds and hands over; others get."""

    def __init__(self) -> None:
        self._lines: dict[Purpose, queue.SimpleQueue[TreeDelivery | None]] = {
            purpose: queue.SimpleQueue() for purpose in get_args(Purpose)
        }
        self._added: list[TreeDelivery] = []

    def add(self, delivery: TreeDelivery) -> None:
        """Keep it until all are handed over."""
        self._added.append(delivery)

    def added(self, purpose: Purpose) -> int:
        """Trees that `get` does not find yet."""
        return sum(delivery.purpose == purpose for delivery in list(self._added))

    def hand_over(self) -> None:
        """Let them out together: each one alone would make whoever waits take turns with this thread."""
        for delivery in self._added:
            self._lines[delivery.purpose].put(delivery)
        self._added.clear()

    def end(self) -> None:
        """Hand over, and say that no more will come."""
        self.hand_over()
        for line in self._lines.values():
            line.put(None)

    def get(self, timeout_s: float, purpose: Purpose) -> TreeDelivery | None:
        """The next one; None if no more will come. Raises TimeoutError."""
        try:
            delivery = self._lines[purpose].get(timeout=timeout_s)
        except queue.Empty:
            msg = f"no tree came within {timeout_s:g} s"
            raise TimeoutError(msg) from None
        if delivery is None:
            # For the next one who asks, too.
            self._lines[purpose].put(None)
        return delivery
