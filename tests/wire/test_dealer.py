import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import msgspec
import pytest

from tests.wire.raw_router import RawRouter, raw_router, wait_until_tried
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import OutFrame
from trieline.wire.config import LinksConfig
from trieline.wire.dealer import Dealer


class Owner:
    """Keeps all that it gives, greets each new connection, and gives all again."""

    def __init__(self, links: LinksConfig) -> None:
        self._kept: list[Sequence[OutFrame]] = []
        self._to_send: list[Sequence[OutFrame]] = []
        self.dealer = Dealer(
            links,
            links.trajectories,
            name="owner",
            next_frames=self._next_frames,
            on_message=lambda frames: None,
            on_connect=self._greet,
            on_failure=lambda: None,
        )

    def give(self, frames: Sequence[OutFrame]) -> None:
        self._kept.append(frames)
        self._to_send.append(frames)
        self.dealer.wake()

    def _greet(self) -> None:
        self._to_send = [[b"greeting"], *self._kept]

    def _next_frames(self) -> Sequence[OutFrame] | None:
        return self._to_send.pop(0) if self._to_send else None

    async def heard_by(self, router: RawRouter, count: int) -> list[list[bytes]]:
        """The next `count` messages that arrive."""
        heard = [await asyncio.to_thread(router.hear) for _ in range(count)]
        self.dealer.expect_alive()
        return heard


@contextlib.asynccontextmanager
async def owner_of(links: LinksConfig) -> AsyncIterator[Owner]:
    made = Owner(links)
    made.dealer.start()
    try:
        yield made
    finally:
        await made.dealer.close()


class Interrupted(list[bytes]):
    """Frames between the first two of which something happens, once."""

    def __init__(self, frames: Sequence[bytes], happening: Callable[[], None]) -> None:
        super().__init__(frames)
        self._happening = happening

    def __iter__(self) -> Iterator[bytes]:
        for at, frame in enumerate(super().__iter__()):
            if at == 1:
                happening, self._happening = self._happening, lambda: None
                happening()
            yield frame


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_new_connection_that_is_not_noticed_yet_is_greeted_first(
    transport: str, links: LinksConfig
) -> None:
    if transport == "tcp":
        links = msgspec.structs.replace(links, trajectories=free_loopback_address())

    async def act() -> None:
        async with owner_of(links) as owner:
            with raw_router(links.trajectories) as router:
                owner.give([b"first", b"message"])
                assert await owner.heard_by(router, 2) == [[b"greeting"], [b"first", b"message"]]
            with raw_router(links.trajectories) as router:
                router.wait_connected()
                owner.give([b"second", b"message"])
                assert await owner.heard_by(router, 3) == [
                    [b"greeting"],
                    [b"first", b"message"],
                    [b"second", b"message"],
                ]
            assert owner.dealer.connections == 2

    asyncio.run(act())


def test_a_message_that_finds_its_connection_broken_is_not_the_first_of_the_next(links: LinksConfig) -> None:
    async def act() -> None:
        async with owner_of(links) as owner:
            with raw_router(links.trajectories) as router:
                owner.give([b"first"])
                assert await owner.heard_by(router, 2) == [[b"greeting"], [b"first"]]
            wait_until_tried(links.trajectories)
            owner.give([b"second"])
            # The dealer looks for it now, and has not noticed that there is no connection.
            await asyncio.sleep(0)
            with raw_router(links.trajectories) as router:
                assert await owner.heard_by(router, 3) == [[b"greeting"], [b"first"], [b"second"]]

    asyncio.run(act())


def test_a_message_whose_connection_breaks_amid_it_does_not_take_the_next_one_along(
    links: LinksConfig,
) -> None:
    async def act() -> None:
        async with owner_of(links) as owner:
            with raw_router(links.trajectories) as router:
                owner.give([b"first"])
                assert await owner.heard_by(router, 2) == [[b"greeting"], [b"first"]]

                def break_off() -> None:
                    router.close()
                    wait_until_tried(links.trajectories)

                owner.give(Interrupted([b"of", b"three", b"frames"], break_off))
                await asyncio.sleep(0)
            with raw_router(links.trajectories) as router:
                assert await owner.heard_by(router, 3) == [
                    [b"greeting"],
                    [b"first"],
                    [b"of", b"three", b"frames"],
                ]

    asyncio.run(act())
