"""A version's file on its way to a policy server, chunk by chunk."""

import time
import zlib
from pathlib import Path

from trieline.wire.messages import Chunk, WeightsAnnouncement


class Fetch:
    """One version's file on its way, written in order beside its final name."""

    def __init__(self, announcement: WeightsAnnouncement, folder: Path, chunk_bytes: int) -> None:
        self.announcement = announcement
        self.written = 0
        self.crc = 0
        self._chunk_bytes = chunk_bytes
        self._asked_at = time.monotonic()
        name = f"weights-{announcement.publisher_start}-{announcement.policy_version}.safetensors"
        self._path = folder / name
        self._partial = folder / f"{name}.partial"
        self._file = self._partial.open("wb", buffering=0)

    def wanted(self) -> tuple[int, int]:
        """(offset, bytes) of the chunk to ask for now."""
        self._asked_at = time.monotonic()
        return self.written, min(self._chunk_bytes, self.announcement.num_bytes - self.written)

    def silent_s(self) -> float:
        """Since the last chunk was asked for."""
        return time.monotonic() - self._asked_at

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
