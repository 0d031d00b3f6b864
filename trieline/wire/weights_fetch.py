"""A version's file on its way to a policy server, chunk by chunk."""

import time
import zlib
from pathlib import Path

from trieline.wire.messages import Chunk, WeightsAnnouncement
from trieline.wire.weights_chunks import WINDOW


def file_name(announcement: WeightsAnnouncement) -> str:
    """Of a version that is fetched."""
    return f"weights-{announcement.publisher_start}-{announcement.policy_version}.safetensors"


class Fetch:
    """One version's file on its way, written in order beside its final name.

    Some chunks are asked for before the first of them is here, and come in the order in which they were asked
    for, unless one is lost.
    """

    window = WINDOW
    """Chunks on their way at most."""

    def __init__(self, announcement: WeightsAnnouncement, folder: Path, chunk_bytes: int) -> None:
        self.announcement = announcement
        self.written = 0
        self.crc = 0
        self._chunk_bytes = chunk_bytes
        self._asked = 0
        """Bytes."""
        self._window = self.window
        self._moved_at = time.monotonic()
        name = file_name(announcement)
        self._path = folder / name
        self._partial = folder / f"{name}.partial"
        self._file = self._partial.open("wb", buffering=0)

    def wanted(self) -> list[tuple[int, int]]:
        """(offset, bytes) of the chunks to ask for now."""
        most = min(self.written + self._window * self._chunk_bytes, self.announcement.num_bytes)
        offsets = range(self._asked, most, self._chunk_bytes)
        if offsets:
            self._moved_at = time.monotonic()
        self._asked = max(self._asked, most)
        return [(offset, min(self._chunk_bytes, most - offset)) for offset in offsets]

    def begin_again(self) -> None:
        """Nothing comes any more: what is missing is to be asked for again, one chunk after the other.

        A slow line would only be filled with the same ones again.
        """
        self._asked, self._window = self.written, 1

    def silent_s(self) -> float:
        """Since a chunk was asked for, or came."""
        return time.monotonic() - self._moved_at

    def state(self) -> str:
        """For messages."""
        return f"{self.written} of {self.announcement.num_bytes} bytes are here"

    def take(self, chunk: Chunk) -> bool:
        """Append a chunk; one that is not the next is left out (it was asked for twice).

        Raises OSError if the disk does not take it.
        """
        missing = self.announcement.num_bytes - self.written
        if chunk.offset != self.written or not 0 < len(chunk.data) <= missing:
            return False
        left = chunk.data.data
        while left:
            left = left[self._file.write(left) :]
        self.crc = zlib.crc32(chunk.data.data, self.crc)
        self.written += len(chunk.data)
        self._moved_at = time.monotonic()
        return True

    def finish(self) -> Path:
        """Give the file its name."""
        self._file.close()
        self._partial.replace(self._path)
        return self._path

    def discard(self) -> None:
        """Remove what is there."""
        self._file.close()
        self._partial.unlink(missing_ok=True)
