"""Where the sockets of a run on one machine are: in a folder that nobody else can enter, and gone with it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from trieline.common.owned_folder import claim_folder, sweep
from trieline.wire.addresses import free_loopback_address, is_elsewhere, is_local, private_ipc_addresses
from trieline.wire.config import ADDRESSES, LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.gate import check_peer
from trieline.wire.sockets import reason_against_binding

PREFIX = "trieline-run-"


@contextlib.contextmanager
def run_sockets(links: LinksConfig) -> Iterator[LinksConfig]:
    """Inside the block, the links of one start of a run.

    Addresses that nobody chose are `ipc://` ones in a private folder, a new one at each start.

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


def expect_free(links: LinksConfig) -> None:
    """Before anything else is done for a run, raise AddressError if an address of its own can't be bound.

    Policy servers may be on other machines, where somebody else starts them.
    """
    default, seen = LinksConfig(), set[str]()
    for name, address in links.addresses():
        if getattr(links, name) == getattr(default, name):
            continue
        if name == "generate" and is_elsewhere(address):
            check_peer(address, links.keys)
            continue
        reason = "it is there twice" if address in seen else reason_against_binding(address, links.keys)
        if reason is not None:
            msg = f"links.{name}: can't bind {address}: {reason}"
            raise AddressError(msg)
        seen.add(address)


def with_free_addresses(links: LinksConfig, say: Callable[[str], None]) -> LinksConfig:
    """A run that goes on has the addresses of its last start; others may have taken the user's own since.

    Raises:
        AddressError: one that other machines know can't be bound.
    """
    for name, address in links.addresses():
        if _was_private(address) or (name == "generate" and is_elsewhere(address)):
            continue
        if (reason := reason_against_binding(address, links.keys)) is None:
            continue
        if not is_local(address):
            msg = f"links.{name}: can't bind {address}: {reason}"
            raise AddressError(msg)
        free = free_loopback_address()
        several = tuple(free if one == address else one for one in links.generate_addresses)
        one_of_several = name == "generate" and len(several) > 1
        links = msgspec.structs.replace(links, **{name: several if one_of_several else free})
        say(f"links.{name}: {free} now ({address}: {reason})")
    return links


def _parents() -> list[str]:
    """A path has at most 107 bytes, and a job's own temporary folder may have a long one."""
    return list(dict.fromkeys((tempfile.gettempdir(), "/tmp")))


def sweep_sockets() -> None:
    """Remove the folders of runs of this user that were killed, as the next run does, too."""
    for parent in _parents():
        sweep(Path(parent), f"{PREFIX}*")


@contextlib.contextmanager
def _private_addresses() -> Iterator[dict[str, str]]:
    sweep_sockets()
    parents = _parents()
    for parent in map(Path, parents):
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


def _was_private(address: object) -> bool:
    """Of an earlier start of the run."""
    if not isinstance(address, str) or not address.startswith("ipc://"):
        return False
    return Path(address).parent.name.startswith(PREFIX)
