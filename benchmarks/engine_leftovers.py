"""What programs have left in Docker Engine: containers, images of them, networks, volumes, processes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trieline.envs.sandbox import owner
from trieline.envs.sandbox.docker import OWNER_LABEL, Engine

CONTAINER_OF = re.compile(r"docker[/-]([0-9a-f]{64})")
RUNNING = "running"


class EngineLeftovers:
    """Told from what was there before, and from what belongs to somebody who lives: others use the engine."""

    def __init__(self) -> None:
        self._api = Engine().api
        self._before = {name for name, _ in self._held()}

    def all(self) -> list[str]:
        """Everything that nobody alive owns."""
        return [what for name, what in self._held() if name not in self._before]

    def running(self) -> list[str]:
        """Of those, the containers and processes that still run."""
        return [what for what in self.all() if RUNNING in what]

    def _held(self) -> Iterator[tuple[str, str]]:
        """(id, description) of all that no living process owns."""
        # Before the containers are listed: one that starts meanwhile is none that was lost.
        inside = dict(_processes_inside())
        containers = self._api.containers(all=True)
        known = {container["Id"] for container in containers}
        for container in containers:
            if _is_nobodys(container["Labels"]):
                yield container["Id"], f"container {container['Names'][0]}: {container['State']}"
        for pid, container_id in inside.items():
            if container_id not in known and Path(f"/proc/{pid}").exists():
                yield container_id, f"process {pid} of the container {container_id}, which is gone: {RUNNING}"
        for image in self._api.images():
            if OWNER_LABEL in (image["Labels"] or {}) and _is_nobodys(image["Labels"]):
                yield image["Id"], f"image {image['Id']}"
        for network in self._api.networks():
            yield network["Id"], f"network {network['Name']}"
        for volume in self._api.volumes()["Volumes"] or ():
            yield volume["Name"], f"volume {volume['Name']}"


def _is_nobodys(labels: Mapping[str, Any]) -> bool:
    """Containers without our label are somebody's; none of ours is made without it."""
    return OWNER_LABEL in labels and owner.is_gone(labels[OWNER_LABEL])


def _processes_inside() -> Iterator[tuple[int, str]]:
    """(process id, container id), as the control groups of this machine have it."""
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        try:
            found = CONTAINER_OF.search((proc / "cgroup").read_text())
        except OSError:
            continue
        if found is not None:
            yield int(proc.name), found[1]
