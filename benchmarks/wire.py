"""Trees per second over the trajectory link, beside raw ZeroMQ carrying the same bytes.

    python -m benchmarks.wire [--journal]

One process sends, another receives, over loopback TCP. `trieline`: TreeSender (encode, send, keep until
acknowledged) to TreeReceiver (receive, decode, validate, remember, queue, acknowledge). `raw`: the same
frames by DEALER and ROUTER with the same queues, received and thrown away, nothing answered. Rounds of all
sides alternate; their medians are compared, by the clock and by the processor time of both processes together
(which other work on the machine disturbs less). `busy` is trieline while the receiving process multiplies
matrices in its main thread, as a learner does. With `--journal` also `journal`: trieline with every tree
appended to a journal before its acknowledgement, as in a run, and how fast that journal is read.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from tests.trees import long_tree
from trieline.wire import sockets
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import InFrame, encode, num_bytes
from trieline.wire.config import LinksConfig
from trieline.wire.dealer import SEND_QUEUE
from trieline.wire.journal import Journal, read_journal
from trieline.wire.messages import Assignment, TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver, TreeSender
from trieline.wire.tree import TrajectoryTree
from trieline.wire.tree_admission import EnvExpectation, Expectation

RESULTS = Path(__file__).parent / "results" / "wire.json"
VOCAB_SIZE = 49_152
ENV_ID = "test/Long-v0"
WARM_UP = 20
WAIT_S = 60.0
# (tokens of a tree, trees of a round)
SIZES = ((1_000, 5_000), (10_000, 2_000), (100_000, 600))


def make_tree(num_tokens: int) -> TrajectoryTree:
    return long_tree(np.random.default_rng(0), num_tokens=num_tokens, vocab_size=VOCAB_SIZE)


def make_delivery(num_tokens: int) -> TreeDelivery:
    return TreeDelivery(actor_id="actor", sequence_number=1, assignment_id=1, tree=make_tree(num_tokens))


def send_trieline(links: LinksConfig, num_tokens: int, count: int) -> None:
    async def act() -> None:
        tree = make_tree(num_tokens)
        actor = TreeSender(links, actor_id="actor", capacity=count)
        await actor.start()
        for _ in range(count):
            await actor.send((await actor.next_assignment(WAIT_S)).assignment_id, tree)
            # The loop must run for anything to be sent, as it does between the steps of an episode.
            await asyncio.sleep(0)
        await actor.flush(WAIT_S)
        await actor.close()

    asyncio.run(act())


@contextlib.contextmanager
def trieline_receiver(links: LinksConfig, journal: Journal | None = None) -> Iterator[Callable[[], object]]:
    def accept(delivery: TreeDelivery, frames: Sequence[InFrame]) -> None:
        if journal is not None:
            journal.append(delivery, frames)

    env = EnvExpectation(max_context=max(num_tokens for num_tokens, _ in SIZES))
    receiver = TreeReceiver(
        links,
        accept=accept,
        run_id="benchmark",
        expectation=Expectation(envs={ENV_ID: env}, vocab_size=VOCAB_SIZE, max_forks=0),
    )
    receiver.newest_version = 1
    receiver.start()
    most = max(count for _, count in SIZES)
    receiver.offer(Assignment(assignment_id=i, env_id=ENV_ID, seed=i) for i in range(most))
    yield lambda: receiver.get(WAIT_S)
    receiver.close()


@contextlib.contextmanager
def busy_receiver(links: LinksConfig) -> Iterator[Callable[[], object]]:
    """As `trieline_receiver`, with a thread that multiplies."""
    closing = threading.Event()

    def multiply() -> None:
        matrix = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
        while not closing.is_set():
            matrix @ matrix

    thread = threading.Thread(target=multiply)
    thread.start()
    with trieline_receiver(links) as receive:
        yield receive
        closing.set()
        thread.join()


@contextlib.contextmanager
def journal_receiver(links: LinksConfig, folder: Path) -> Iterator[Callable[[], object]]:
    """As `trieline_receiver`, with a journal in `folder`."""
    with contextlib.closing(Journal(folder)) as journal, trieline_receiver(links, journal) as receive:
        yield receive


def send_raw(links: LinksConfig, num_tokens: int, count: int) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    sockets.limit(dealer, links, send_queue=SEND_QUEUE)
    dealer.connect(links.trajectories)
    frames = encode(make_delivery(num_tokens))
    for _ in range(count):
        dealer.send_multipart(frames, copy=False)
    context.destroy(linger=round(WAIT_S * 1000))


@contextlib.contextmanager
def raw_receiver(links: LinksConfig) -> Iterator[Callable[[], object]]:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    sockets.limit(router, links, send_queue=SEND_QUEUE)
    router.bind(links.trajectories)
    yield lambda: router.recv_multipart(copy=False)
    context.destroy(linger=0)


Receiver = Callable[[LinksConfig], AbstractContextManager[Callable[[], object]]]
RECEIVERS: dict[str, Receiver] = {"raw": raw_receiver, "trieline": trieline_receiver, "busy": busy_receiver}


def sending(side: str, links: LinksConfig, num_tokens: int, count: int, report: Any) -> None:
    """The sending process: says its processor seconds for all trees, without imports and preparation."""
    start = time.process_time()
    (send_raw if side == "raw" else send_trieline)(links, num_tokens, count)
    report.send(time.process_time() - start)


def time_receiving(receive: Callable[[], object], count: int) -> tuple[float, float]:
    """(trees per second, processor seconds of this process per tree) of `count`, without the first ones."""
    for _ in range(WARM_UP):
        receive()
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(count - WARM_UP):
        receive()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return (count - WARM_UP) / seconds, cpu_seconds / (count - WARM_UP)


def run_round(side: str, receiver: Receiver, num_tokens: int, count: int) -> tuple[float, float]:
    """(trees per second, processor milliseconds per tree) over a new connection from a new process."""
    links = LinksConfig(trajectories=free_loopback_address())
    theirs, ours = multiprocessing.Pipe()
    arguments = (side, links, num_tokens, count, theirs)
    process = multiprocessing.get_context("spawn").Process(target=sending, args=arguments)
    with receiver(links) as receive:
        process.start()
        rate, cpu_s = time_receiving(receive, count)
        # The sender ends when everything is acknowledged.
        process.join(WAIT_S)
    return rate, 1000 * (cpu_s + ours.recv() / count)


def run_journal_round(num_tokens: int, count: int, parent: Path) -> tuple[tuple[float, float], float]:
    """As `run_round`, and the trees per second of reading the journal, which is made in `parent`."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        receiver = functools.partial(journal_receiver, folder=Path(folder))
        written = run_round("journal", receiver, num_tokens, count)
        start = time.perf_counter()
        read = sum(1 for _ in read_journal(Path(folder)))
        assert read == count
        return written, read / (time.perf_counter() - start)


def measure(num_tokens: int, count: int, rounds: int, journal: Path | None) -> dict[str, Any]:
    tree_bytes = num_bytes(encode(make_delivery(num_tokens)))
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in RECEIVERS}
    reads = []
    for _ in range(rounds):
        for side, receiver in RECEIVERS.items():
            found[side].append(run_round(side, receiver, num_tokens, count))
        if journal is not None:
            written, read = run_journal_round(num_tokens, count, journal)
            found.setdefault("journal", []).append(written)
            reads.append(read)
    rate = {side: statistics.median(r for r, _ in values) for side, values in found.items()}
    cpu_ms = {side: statistics.median(c for _, c in values) for side, values in found.items()}
    return {
        "tokens": num_tokens,
        "bytes": tree_bytes,
        "trees_per_s": {side: round(value, 1) for side, value in rate.items()},
        "mb_per_s": {side: round(value * tree_bytes / 1e6, 1) for side, value in rate.items()},
        "cpu_ms_per_tree": {side: round(value, 3) for side, value in cpu_ms.items()},
        "ratio_to_raw": {side: round(rate[side] / rate["raw"], 3) for side in found},
        "ratio_to_raw_by_cpu": {
            side: round(cpu_ms["raw"] / cpu_ms[side], 3) for side in found if side != "busy"
        },
        "trees_per_s_of_each_round": {side: [round(r, 1) for r, _ in v] for side, v in found.items()},
    } | ({"trees_per_s_read_from_journal": round(statistics.median(reads), 1)} if reads else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--journal",
        nargs="?",
        type=Path,
        const=Path(tempfile.gettempdir()),
        help="measure with a journal too, in this folder (default: the system's for temporary files)",
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": "python -m benchmarks.wire " + " ".join(sys.argv[1:]),
        "machine": {
            "cpu": cpu_name(),
            "cores": multiprocessing.cpu_count(),
            # Above 0 other work ran at the same time, and only the comparison of sides means something.
            "load_average_before": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "libzmq": zmq.zmq_version(),
        },
        "sizes": [],
    }
    print(report["machine"])
    print(f"{'tokens':>8} {'bytes':>9} {'side':>9} {'trees/s':>9} {'MB/s':>8} {'of raw':>7} {'CPU ms':>7}")
    for num_tokens, count in SIZES:
        row = measure(num_tokens, count, options.rounds, options.journal)
        report["sizes"].append(row)
        for side in row["trees_per_s"]:
            rate, megabytes = row["trees_per_s"][side], row["mb_per_s"][side]
            ratio, cpu = row["ratio_to_raw"][side], row["cpu_ms_per_tree"][side]
            rates = f"{rate:>9} {megabytes:>8} {ratio:>7.1%} {cpu:>7}"
            print(f"{num_tokens:>8} {row['bytes']:>9} {side:>9} {rates}", flush=True)
        if options.journal is not None:
            read = row["trees_per_s_read_from_journal"]
            print(f"{num_tokens:>8} {row['bytes']:>9} {'read':>9} {read:>9}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
