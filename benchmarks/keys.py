"""What keys cost: trees and weights over loopback TCP, from process to process, with keys and without.

    python -m benchmarks.keys [--rounds 5]

Trees: `TreeSender` to `TreeReceiver`, every tree acknowledged. Weights: a file of 270 MB (SmolLM2 in
bfloat16) that the other process doesn't see, fetched in chunks. Rounds with and without keys alternate;
medians, by the clock, and for trees by the processor time of the receiving process, too. Written to
`benchmarks/results/keys.json`.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.wire import RESULTS as WIRE_RESULTS
from benchmarks.wire import WAIT_S, cpu_name, make_delivery, send_trieline, time_receiving, trieline_receiver
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import encode, num_bytes
from trieline.wire.config import LinksConfig
from trieline.wire.keys import KeyFolder
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

RESULTS = WIRE_RESULTS.with_name("keys.json")
SIZES = ((1_000, 3_000), (10_000, 1_500), (100_000, 300))
WEIGHTS_BYTES = 270_000_000


def links_of(keys: str) -> LinksConfig:
    """`keys`: "" for none."""
    return LinksConfig(trajectories=free_loopback_address(), weights_fetch=free_loopback_address(), keys=keys)


def trees_round(keys: str, num_tokens: int, count: int) -> tuple[float, float]:
    """(trees per second, processor milliseconds of the receiver per tree)."""
    links = links_of(keys)
    sender = multiprocessing.get_context("spawn").Process(
        target=send_trieline, args=(links, num_tokens, count)
    )
    with trieline_receiver(links) as receive:
        sender.start()
        rate, cpu_s = time_receiving(receive, count)
        sender.join(WAIT_S)
    return rate, 1000 * cpu_s


def fetch(links: LinksConfig, folder: Path, report: Any) -> None:
    """The fetching process: says how many seconds passed from its start to the whole file."""
    with contextlib.closing(WeightsSubscriber(links, server_id="server", fetch_folder=folder)) as subscriber:
        start = time.perf_counter()
        subscriber.start()
        while subscriber.poll() is None:
            time.sleep(0.001)
        report.send(time.perf_counter() - start)


def weights_round(keys: str) -> float:
    """Bytes per second."""
    links, (theirs, ours) = links_of(keys), multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights"
        path.write_bytes(np.random.default_rng(0).bytes(WEIGHTS_BYTES))
        with contextlib.closing(WeightsPublisher(links)) as publisher:
            publisher.start()
            publisher.publish(1, path)
            path.unlink()
            arguments = (links, Path(scratch) / "fetched", theirs)
            process = multiprocessing.get_context("spawn").Process(target=fetch, args=arguments)
            process.start()
            seconds: float = ours.recv()
            process.join(WAIT_S)
    return WEIGHTS_BYTES / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = KeyFolder(Path(scratch) / "keys")
        folder.make("here")
        sides = {"plain": "", "keys": str(folder.path)}
        for num_tokens, count in SIZES:
            size = num_bytes(encode(make_delivery(num_tokens)))
            found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for _ in range(options.rounds):
                for side, keys in sides.items():
                    found[side].append(trees_round(keys, num_tokens, count))
            for side, rounds in found.items():
                rate, cpu_ms = (statistics.median(values) for values in zip(*rounds, strict=True))
                rows.append(
                    {
                        "what": f"trees of {num_tokens} tokens",
                        "side": side,
                        "mb_per_s": round(rate * size / 1e6, 1),
                        "per_s": round(rate, 1),
                        "receiver_cpu_ms": round(cpu_ms, 3),
                    }
                )
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, keys in sides.items():
                rates[side].append(weights_round(keys) / 1e6)
        rows += [
            {"what": "weights", "side": side, "mb_per_s": round(statistics.median(values), 1)}
            for side, values in rates.items()
        ]
    report = {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average_before": load, "rows": rows}
    for row in rows:
        print(row)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
