"""Where the sockets of a run on one machine are: in a folder that nobody else can enter, and gone with it."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trieline.common.owned_folder import claim_folder, sweep
from trieline.wire.addresses import free_loopback_address, private_ipc_addresses, reason_against
from trieline.wire.config import ADDRESSES, LinksConfig
from trieline.wire.errors import AddressError

PREFIX = "trieline-run-"


@contextlib.contextmanager
def run_sockets(links: LinksConfig) -> Iterator[LinksConfig]:
    """Inside the block, the links of one start of a run.

    Addresses that nobody chose are private `ipc://` ones. One of an earlier start that another program has
    taken since is replaced by a free one on loopback.

    Raises:
        AddressError: no path for sockets is short enough.
    """
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(_private_addresses())
        default = LinksConfig()
        ours = {
            name: private[name]
            for name in ADDRESSES
            if getattr(links, name) == getattr(default, name) or _was_private(getattr(links, name))
        }
        yield msgspec.structs.replace(links, **ours)


def still_free(links: LinksConfig) -> Iterator[tuple[str, str, str]]:
    """(name, free address, why) of each address of the user's own that can't be bound any more."""
    for name in ADDRESSES:
        address = getattr(links, name)
        if not _was_private(address) and (reason := reason_against(address)) is not None:
            yield name, free_loopback_address(), f"{address}: {reason}"


@contextlib.contextmanager
def _private_addresses() -> Iterator[dict[str, str]]:
    # A path has at most 107 bytes, and a job's own temporary folder may have a long one.
    parents = list(dict.fromkeys((tempfile.gettempdir(), "/tmp")))
    for parent in map(Path, parents):
        sweep(parent, f"{PREFIX}*")
        folder = claim_folder(Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)))
        with contextlib.closing(folder):
            try:
                addresses = private_ipc_addresses(folder.path)
            except AddressError:
                if str(parent) == parents[-1]:
                    raise
                continue
            yield addresses
            return


def _was_private(address: str) -> bool:
    """Of an earlier start of the run."""
    return address.startswith("ipc://") and Path(address).parent.name.startswith(PREFIX)
