"""Both ends of the weights link, for tests."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from trieline.wire.config import LinksConfig
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

WAIT_S = 10.0
NUM_BYTES = 3_000_000
T = TypeVar("T")


def weights(folder: Path, name: str, seed: int = 0, num_bytes: int = NUM_BYTES) -> Path:
    path = folder / name
    path.write_bytes(np.random.default_rng(seed).bytes(num_bytes))
    return path


def publisher(closing: contextlib.ExitStack, links: LinksConfig) -> WeightsPublisher:
    made = WeightsPublisher(links)
    closing.callback(made.close)
    made.start()
    return made


def subscriber(
    closing: contextlib.ExitStack, links: LinksConfig, folder: Path, server_id: str = "server"
) -> WeightsSubscriber:
    made = WeightsSubscriber(links, server_id=server_id, fetch_folder=folder / f"of-{server_id}")
    closing.callback(made.close)
    made.start()
    return made


def wait_for(ask: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + WAIT_S
    while not (answer := ask()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.005)
    return answer


def load(learner: WeightsPublisher, version: int, path: Path, *servers: WeightsSubscriber) -> None:
    """Publish a version, which these servers load."""
    learner.publish(version, path)
    for server in servers:
        wait_for(server.poll)
        server.report_loaded(version, 0.1)
    wait_for(lambda: list(learner.loaded().values()) == [version] * len(servers))
