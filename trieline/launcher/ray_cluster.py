"""`trieline train --on ray`: actors and policy servers get their places from a Ray cluster that is there.

Ray decides where a program runs and says when it is gone; the programs, what they are told and how they speak
with each other are the same as without it. The learner, which owns the run folder, stays with the launcher.
"""

import logging
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError

from trieline.common.errors import about_file
from trieline.config import Config, ConfigError
from trieline.launcher.ray_seat import Seat
from trieline.launcher.server_gpus import gpus_of_server
from trieline.launcher.supervisor import ProcessSpec, Program, start_here
from trieline.wire.addresses import free_loopback_address, host_of, ip_of, is_elsewhere, is_local
from trieline.wire.config import ADDRESSES, LinksConfig

log = logging.getLogger(__name__)

PLACED = ("actor", "policy-server")
POLL_S = 0.1
SLOW_S = 30.0
"""After this long without a place, it is said that a program waits."""
# A node is asked for by a share of a resource that Ray gives every node under its address.
SHARE = 0.001


class RayCluster:
    """A connection to a cluster; the programs that are started through it end with it."""

    def __init__(self) -> None:
        """Raises ConfigError: no cluster is there."""
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            msg = f"expected a running Ray cluster (ray start --head, or RAY_ADDRESS), found none: {error}"
            raise ConfigError(msg) from None
        self._here = ray.util.get_node_ip_address()

    def links(self, links: LinksConfig) -> LinksConfig:
        """Those of a start of a run: sockets in a private folder reach no node, so ports take their place.

        Raises:
            ConfigError: an address is on loopback, and nodes of the cluster are elsewhere.
        """
        default = LinksConfig()
        unchosen = [name for name in ADDRESSES if getattr(links, name) == getattr(default, name)]
        free = {name: free_loopback_address() for name in unchosen}
        links = msgspec.structs.replace(links, **free)
        nodes = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        elsewhere = ", ".join(sorted(nodes - {self._here})[:3])
        for name, address in links.addresses() if elsewhere else ():
            if is_local(address):
                msg = (
                    f"links.{name}: expected an address that the nodes of the cluster reach ({elsewhere}), "
                    f"got {address}; docs/clusters.md says which"
                )
                raise ConfigError(msg)
        return links

    def start(self, spec: ProcessSpec, more_arguments: tuple[str, ...], config: Config) -> Program:
        """Start a program where Ray says, or here if it is none of those that are placed."""
        verb = spec.arguments[0]
        if verb not in PLACED:
            return start_here(spec, more_arguments)
        # The log of a program is in the run folder's `logs`.
        run_dir = spec.log_file.parents[1]
        place = ray.remote(Seat).options(**self._wants(spec, config), max_restarts=0)
        config_text = (run_dir / "config.toml").read_bytes()
        seat = place.remote((*spec.arguments, *more_arguments), run_dir=str(run_dir), config=config_text)
        return PlacedProgram(seat, spec)

    def _wants(self, spec: ProcessSpec, config: Config) -> Mapping[str, Any]:
        """What a program is to have, in Ray's words."""
        if spec.arguments[0] == "actor":
            return {"num_cpus": config.actor.processes, "scheduling_strategy": "SPREAD"}
        # A policy server binds its address, so it goes to the node that has it.
        number = int(spec.name.rpartition("-")[2]) if spec.name[-1].isdecimal() else 0
        nodes = [self._node_of(address) for address in config.links.generate_addresses]
        node = nodes[number]
        gpus = gpus_of_server(config.policy_server, there=_gpus_of(node), servers=nodes.count(node))
        return {"num_cpus": 1, "num_gpus": gpus, "resources": {f"node:{node}": SHARE}}

    def _node_of(self, address: str) -> str:
        """Its number: Ray knows its nodes by that."""
        host = host_of(address)
        return ip_of(host) if host is not None and is_elsewhere(address) else self._here

    def close(self) -> None:
        """Leave the cluster; what still runs through this connection is ended. Idempotent."""
        ray.shutdown()


def _gpus_of(node: str) -> int:
    """What Ray has counted, or was told, at this number."""
    there = [one for one in ray.nodes() if one["Alive"] and one["NodeManagerAddress"] == node]
    return int(sum(one["Resources"].get("GPU", 0) for one in there))


class PlacedProgram:
    """A program on a node, as the supervisor sees it. Nothing waits for a node but `wait`."""

    def __init__(self, seat: Any, spec: ProcessSpec) -> None:
        self.pid = 0
        """On its node; 0 as long as it has no place."""
        self._seat, self._spec = seat, spec
        self._look = seat.look.remote()
        self._code: int | None = None
        self._slow_at = time.monotonic() + SLOW_S

    def poll(self) -> int | None:
        """Its exit code, None if it runs or has no place yet. What it has said goes to its log."""
        while self._code is None and ray.wait([self._look], timeout=0)[0]:
            try:
                self.pid, code, said = ray.get(self._look)
            except RayError as error:
                log.warning("the node of %s is gone: %s", self._spec.name, str(error).splitlines()[0])
                self._code = -signal.SIGKILL
                break
            self._append(said)
            if code is not None:
                self._end(code)
                break
            self._look = self._seat.look.remote()
        if not self.pid and self._code is None and time.monotonic() > self._slow_at:
            log.warning("%s waits for a place on the cluster", self._spec.name)
            self._slow_at += SLOW_S
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. subprocess.TimeoutExpired: it has none by then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self._spec.name, timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def terminate(self) -> None:
        """Ask it to stop. One without a place gets none."""
        if self.pid:
            self._seat.signal.remote(int(signal.SIGTERM))
        else:
            self._end(-signal.SIGTERM)

    def kill(self) -> None:
        """It and all that it has started."""
        self._seat.signal.remote(int(signal.SIGKILL))
        self._end(-signal.SIGKILL)

    def _append(self, said: bytes) -> None:
        path: Path = self._spec.log_file
        if said:
            with about_file(path), path.open("ab") as file:
                file.write(said)

    def _end(self, code: int) -> None:
        self._code = code
        # In order after what it was told before.
        self._seat.__ray_terminate__.remote()
