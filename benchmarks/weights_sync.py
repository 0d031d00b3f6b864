"""Seconds from `publish` on the learner to new weights in the policy server, over the real sockets.

    python -m benchmarks.weights_sync [MODEL] [--dtype bfloat16] [--versions 10] [--loads idle busy]

MODEL is anything that `model.path` takes; the default is SmolLM2-135M-Instruct. The `busy` server decodes 32
requests meanwhile. Columns: writing the file, and from the call of `publish` until the learner knows that the
server serves the version. Written to `benchmarks/results/weights_sync.json`.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from trieline.learner.config import LearnerConfig
from trieline.learner.keeping.weights import WeightsOutbox, outbox_folder
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.update.learner import Learner
from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Sampling
from trieline.wire.weights_link import WeightsPublisher

RESULTS = Path(__file__).parent / "results" / "weights_sync.json"
SERVER = """
import msgspec, sys
from trieline.wire.config import LinksConfig, ModelConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.process import run_policy_server
sys.exit(run_policy_server(
    PolicyServerConfig(threads=int(sys.argv[4])), model=ModelConfig(path=sys.argv[1], dtype=sys.argv[2]),
    links=msgspec.json.decode(sys.argv[3], type=LinksConfig)))
"""
BUSY_REQUESTS = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--loads", nargs="+", choices=["idle", "busy"], default=["idle", "busy"])
    parser.add_argument("--threads", type=int, default=0, help="of the server; 0: one a core")
    options = parser.parse_args()
    folder = prepare_model(options.model)
    trajectories, generate, fetch = (free_loopback_address() for _ in range(3))
    links = LinksConfig(trajectories=trajectories, generate=generate, weights_fetch=fetch)
    arguments = [str(folder), options.dtype, msgspec.json.encode(links).decode(), str(options.threads)]
    server = subprocess.Popen([sys.executable, "-c", SERVER, *arguments])
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    results: dict[str, Any] = {"machine": machine, "model": folder.name, "dtype": options.dtype}
    print(machine)
    try:
        results |= measure(folder, links, getattr(torch, options.dtype), options.versions, options.loads)
    finally:
        server.terminate()
        server.wait()
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def measure(
    folder: Path, links: LinksConfig, dtype: torch.dtype, versions: int, loads: list[str]
) -> dict[str, Any]:
    learner = Learner(LearnerConfig(), folder, dtype=dtype)
    num_bytes = sum(t.numel() * t.element_size() for t in learner.weights().values())
    results: dict[str, Any] = {"megabytes": round(num_bytes / 1e6)}
    with tempfile.TemporaryDirectory() as run_dir, closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        outbox = WeightsOutbox(publisher, outbox_folder(Path(run_dir), num_bytes))
        outbox.publish(1, learner.weights())
        outbox.wait_loaded(1, 300)
        version = 1
        for load in loads:
            with requests(links) if load == "busy" else nullcontext():
                writes, totals = [], []
                for _ in range(versions):
                    version += 1
                    time.sleep(0.5)
                    began = time.perf_counter()
                    outbox.publish(version, learner.weights())
                    writes.append(time.perf_counter() - began)
                    outbox.wait_loaded(version, 60)
                    totals.append(time.perf_counter() - began)
            results[load] = {"write_s": _summary(writes), "publish_to_served_s": _summary(totals)}
            print(f"{folder.name}, {num_bytes / 1e6:.0f} MB, {load} server:", results[load], flush=True)
        outbox.close()
    return results


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


@contextmanager
def requests(links: LinksConfig) -> Iterator[None]:
    """Keep the server decoding."""
    stop = threading.Event()
    load = threading.Thread(target=lambda: asyncio.run(generate_until(links, stop)))
    load.start()
    time.sleep(2)
    try:
        yield
    finally:
        stop.set()
        load.join()


async def generate_until(links: LinksConfig, stop: threading.Event) -> None:
    client = PolicyClient(links)
    await client.start()
    prompt = np.arange(100, 164, dtype=np.int32)
    while not stop.is_set():
        sampling = Sampling(max_tokens=64)
        await asyncio.gather(
            *(client.generate(prompt, sampling, timeout_s=120) for _ in range(BUSY_REQUESTS))
        )
    await client.close()


if __name__ == "__main__":
    main()
