"""How many episodes run at once in one worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EpisodeSlots:
    """Bounds the episodes that run at once. First come, first served: the oldest group gets done first."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.running = 0

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[None]:
        async with self._free:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
