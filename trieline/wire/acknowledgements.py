"""Acknowledgements wait a moment for company: one message for many trees saves both ends most of its cost."""

import time
from collections.abc import Callable

from trieline.wire.messages import Acknowledge

WITHIN_S = 0.005
# As many as one message holds.
AT_ONCE = 10_000


class Acknowledgements:
    """What is to be said, by connection."""

    def __init__(self, send: Callable[[bytes, Acknowledge], object]) -> None:
        self._send = send
        self._numbers: dict[bytes, list[int]] = {}
        self._due_at = 0.0

    def __bool__(self) -> bool:
        """Whether there is something to say."""
        return bool(self._numbers)

    def add(self, identity: bytes, sequence_number: int) -> None:
        """A tree is safe."""
        if not self._numbers:
            self._due_at = time.monotonic() + WITHIN_S
        self._numbers.setdefault(identity, []).append(sequence_number)

    def send_due(self) -> None:
        """Say it if it has waited long enough."""
        if self._numbers and time.monotonic() >= self._due_at:
            self.send_all()

    def send_all(self) -> None:
        """Say it now. A connection that is gone or full gets none; its trees come again."""
        for identity, numbers in self._numbers.items():
            for start in range(0, len(numbers), AT_ONCE):
                self._send(identity, Acknowledge(sequence_numbers=numbers[start : start + AT_ONCE]))
        self._numbers.clear()
