"""Links on this machine with short heartbeats."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from trieline.wire.config import LinksConfig


@pytest.fixture
def links(tmp_path: Path) -> LinksConfig:
    """Three sockets in a folder of their own. A peer is lost after 20 s: longer than any test runs."""
    return LinksConfig(
        trajectories=f"ipc://{tmp_path}/trajectories",
        generate=f"ipc://{tmp_path}/generate",
        weights_fetch=f"ipc://{tmp_path}/fetch",
        heartbeat_s=0.1,
        peer_timeout_s=20.0,
        max_message_bytes=4 * 1024 * 1024,
        max_tree_tokens=10_000,
    )


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    """Closes what a test registers, also when it fails."""
    with contextlib.ExitStack() as stack:
        yield stack
