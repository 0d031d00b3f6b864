"""Seconds to fetch a version's file from a learner that is far away, over the real sockets.

    python -m benchmarks.weights_fetch [--megabytes 270] [--delays 0 10 50] [--windows 1 8] [--rounds 3]

Between learner and policy server stands a relay that keeps every byte for `--delays` milliseconds in each
direction, and carries as much as it is given. `--windows`: chunks of 2 MB that are under way at a time. The
table is megabytes a second in the median of the rounds. Written to `benchmarks/results/weights_fetch.json`.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.weights_fetch import Fetch
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

RESULTS = Path(__file__).parent / "results" / "weights_fetch.json"
READ_BYTES = 1 << 18
LONGEST_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=270)
    parser.add_argument("--delays", nargs="+", type=float, default=[0.0, 10.0, 50.0])
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = bytes(1_000_000 * options.megabytes)
    rates: dict[str, dict[str, float]] = {}
    for delay_ms in options.delays:
        row = rates[f"{delay_ms:g} ms"] = {}
        for window in options.windows:
            seconds = [fetch(data, delay_ms / 1000, window) for _ in range(options.rounds)]
            row[str(window)] = round(options.megabytes / statistics.median(seconds), 1)
        print(f"{delay_ms:g} ms each way:", row, "MB/s by window", flush=True)
    found = {"megabytes": options.megabytes, "megabytes_a_second_by_delay_and_window": rates}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


class Elsewhere(WeightsPublisher):
    """A learner on another machine: nobody here sees its files."""

    def _make_public(self, policy_version: int, path: Path, file: BinaryIO, crc32: int | None) -> None:
        path.unlink()
        super()._make_public(policy_version, path, file, crc32)


def fetch(data: bytes, delay_s: float, window: int) -> float:
    """Seconds from the announcement to the whole file."""
    Fetch.window = window
    near = free_loopback_address()
    links = LinksConfig(weights_fetch=free_loopback_address())
    far = LinksConfig(weights_fetch=near)
    with (
        tempfile.TemporaryDirectory() as folder,
        relay(near, links.weights_fetch, delay_s),
        closing(Elsewhere(links)) as publisher,
        closing(WeightsSubscriber(far, server_id="far", fetch_folder=Path(folder) / "far")) as subscriber,
    ):
        publisher.start()
        subscriber.start()
        while not publisher.loaded():
            # As soon as the learner knows of it.
            subscriber.report_loaded(0, 0.0)
            time.sleep(0.05)
        path = Path(folder) / "weights"
        path.write_bytes(data)
        publisher.publish(1, path, crc32=zlib.crc32(data))
        began = time.perf_counter()
        while not (found := subscriber.poll()):
            if time.perf_counter() - began > LONGEST_S:
                msg = f"expected the file within {LONGEST_S:g} s"
                raise TimeoutError(msg)
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        assert found[1].stat().st_size == len(data), "the whole file"
        return seconds


@contextmanager
def relay(near: str, far: str, delay_s: float) -> Iterator[None]:
    """Listens at `near`, and carries everything to `far` and back."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                at, part = await due.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                writer.write(part)
                await writer.drain()

        delivering = loop.create_task(deliver())
        try:
            while part := await reader.read(READ_BYTES):
                due.put_nowait((loop.time() + delay_s, part))
        except OSError:
            pass
        finally:
            delivering.cancel()
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = far.removeprefix("tcp://").rpartition(":")
        back, forth = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, forth), carry(back, writer))

    async def listen() -> asyncio.Server:
        host, _, port = near.removeprefix("tcp://").rpartition(":")
        return await asyncio.start_server(accept, host, int(port))

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    main()
