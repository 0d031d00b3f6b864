"""Key folders of machines that know each other, all of them reached by loopback TCP."""

from pathlib import Path

import msgspec

from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.keys import KeyFolder, Machine

HERE = "127.0.0.1"


def make_keys(path: Path, name: str) -> KeyFolder:
    folder = KeyFolder(path)
    folder.make(name)
    return folder


def line_of(folder: KeyFolder, *names: str) -> Machine:
    own = folder.own()
    return Machine(key=own.public, names=names or (own.name,))


def pair(path: Path) -> tuple[KeyFolder, KeyFolder]:
    """Of one that binds, and of one that connects and knows it."""
    server, client = make_keys(path / "server-keys", "server"), make_keys(path / "client-keys", "client")
    client.allow(line_of(server, HERE))
    return server, client


def with_keys(links: LinksConfig, keys: KeyFolder) -> LinksConfig:
    return msgspec.structs.replace(links, keys=str(keys.path))


def on_loopback(links: LinksConfig) -> LinksConfig:
    """TCP in place of paths."""
    addresses = {name: free_loopback_address() for name in ("trajectories", "generate", "weights_fetch")}
    return msgspec.structs.replace(links, **addresses)
