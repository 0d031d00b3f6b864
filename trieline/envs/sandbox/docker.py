"""Sandboxes in containers of Docker Engine."""

import logging
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.errors
import requests

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import bundle, owner
from trieline.envs.sandbox.base import SandboxLimits
from trieline.envs.sandbox.channel import AttachChannel, Channel
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget
from trieline.envs.sandbox.kept import KeptSandbox

logger = logging.getLogger(__name__)

IMAGE = "trieline/python:1"
OWNER_LABEL = "trieline.owner"
ATTEMPT_LABEL = "trieline.attempt"
ENGINE_SECONDS = 60
"""For one call to the engine."""
CONCURRENT_CALLS = 4
"""An engine that is asked for 64 containers at once times out on all of them."""

# requests' errors are OSErrors: connection refused, reset, timed out.
ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException, OSError)
T = TypeVar("T")


class Engine:
    """The connection of this process to the engine, with few calls at a time."""

    def __init__(self) -> None:
        self._calls = threading.BoundedSemaphore(CONCURRENT_CALLS)
        try:
            self.api = docker.from_env(timeout=ENGINE_SECONDS).api
            self.api.ping()
        except ENGINE_ERRORS as error:
            msg = f"no Docker Engine answers: {error}"
            raise SandboxError(msg) from error
        close_at_exit(self)

    def call(self, what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """One call, in its turn. SandboxError says what it was for."""
        if not self._calls.acquire(timeout=2 * ENGINE_SECONDS):
            msg = f"waited {2 * ENGINE_SECONDS} s for the engine's turn to {what}"
            raise SandboxError(msg)
        try:
            return function(*args, **kwargs)
        except ENGINE_ERRORS as error:
            msg = f"Docker Engine could not {what}: {error}"
            raise SandboxError(msg) from error
        finally:
            self._calls.release()

    def remove(self, container: str) -> None:
        """End and remove a container, by name or id. No error if it is gone."""
        try:
            self.call(f"remove {container}", self._remove, container)
        except SandboxError as error:
            logger.warning("%s; if it is left behind, a later start sweeps it", error)

    def _remove(self, container: str) -> None:
        try:
            self.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            if error.status_code != 409:  # somebody else is removing it at this moment
                raise

    def sweep(self) -> int:
        """Remove containers whose owner, a process on this machine, is gone. Returns how many."""
        swept = 0
        filters = {"label": OWNER_LABEL}
        for container in self.call("list containers", self.api.containers, all=True, filters=filters):
            of = container["Labels"].get(OWNER_LABEL, "")
            if owner.is_gone(of):
                logger.info("removing orphan container %s of %s", container["Id"][:12], of)
                self.remove(container["Id"])
                swept += 1
        return swept

    def close(self) -> None:
        """At the end of the process, its own containers being closed: a last look for orphans of others."""
        forget(self)
        try:
            self.sweep()
        except SandboxError as error:
            logger.warning("no sweep at exit: %s", error)

    def has_image(self, image: str) -> bool:
        """Is it here? Nothing is pulled."""
        return bool(self.call("list images", self.api.images, name=image, quiet=True))


@cache
def _engine_of(_pid: int) -> Engine:
    engine = Engine()
    engine.sweep()
    return engine


def engine() -> Engine:
    """The one of this process: a fork must not share its parent's connections. Sweeps orphans when made."""
    return _engine_of(os.getpid())


def reason_against(image: str = IMAGE) -> str | None:
    """Why this backend can't be used, or None if it can."""
    try:
        if not engine().has_image(image):
            return f"Docker Engine answers, but has no image {image} (build it: {build_command()})"
    except SandboxError as error:
        return str(error)
    return None


def build_command() -> str:
    """How to make the image: the script of a checkout, else docker build on the folder in this package."""
    package = Path(__file__).parents[2]
    script = package.parent / "scripts" / "build_sandbox_image.sh"
    if script.exists():
        return str(script)
    return f"docker build -t {IMAGE} {package / 'sandbox_images' / 'python'}"


class DockerSandbox(KeptSandbox):
    """A container whose process 1 is the keeper. The engine is called to start and end it, never for an exec.

    Memory holds the programs, the keeper (about 12 MB) and the writable folder together.
    """

    def __init__(self, limits: SandboxLimits, *, image: str = IMAGE) -> None:
        super().__init__(limits)
        self.image = image
        self._name: str | None = None

    def __str__(self) -> str:
        return f"Docker sandbox {self._name or '(not started)'}"

    def _another(self) -> "DockerSandbox":
        return DockerSandbox(self.limits, image=self.image)

    def _launch(self, deadline: float) -> Channel:
        eng = engine()
        close_at_exit(self)
        # The name is known before the engine is asked, so a call that is cut short can still be undone.
        self._name = f"trieline-{uuid.uuid4().hex}"
        try:
            eng.call(f"create a container of {self.image} (missing? {build_command()})", self._create, eng)
            connection = eng.call("attach to the container", self._attach, eng)
            eng.call("start the container", eng.api.start, self._name)
        except BaseException:
            self._destroy()
            raise
        if time.monotonic() > deadline:
            logger.warning("%s: the engine took unusually long to start it", self)
        return AttachChannel(connection)

    def _create(self, eng: Engine) -> None:
        settings = bundle.settings(self.limits, rlimits={}, watch_memory_bytes=0)
        eng.api.create_container(
            self.image,
            bundle.keeper_argv("python3", settings),
            name=self._name,
            entrypoint=[],
            user=f"{bundle.UID}:{bundle.GID}",
            working_dir=str(bundle.WORKDIR),
            hostname="sandbox",
            # The only one that this process 1 heeds: an engine that shuts down need not wait for it.
            stop_signal="SIGKILL",
            network_disabled=True,
            stdin_open=True,
            detach=False,  # with stdin_open: the keeper's stdin ends when this process's connection does
            labels={OWNER_LABEL: owner.this_process(), ATTEMPT_LABEL: self._name},
            host_config=eng.api.create_host_config(**self._host_config()),
        )

    def _host_config(self) -> dict[str, Any]:
        limits = self.limits
        workdir = (
            f"rw,nosuid,nodev,exec,mode=0700,uid={bundle.UID},gid={bundle.GID},"
            f"size={limits.disk_bytes},nr_inodes={bundle.max_files(limits)}"
        )
        return {
            "network_mode": "none",
            "ipc_mode": "none",  # no /dev/shm: the writable folder is the only one
            "read_only": True,
            "tmpfs": {str(bundle.WORKDIR): workdir},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "pids_limit": limits.pids + 1,
            "mem_limit": limits.memory_bytes,
            "memswap_limit": limits.memory_bytes,
            "nano_cpus": int(limits.cpus * 1e9),
            # What the keeper says goes to its one listener, not to a log on the host's disk.
            "log_config": {"type": "none", "config": {}},
        }

    def _attach(self, eng: Engine) -> socket.socket:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = eng.api.attach_socket(self._name, params=params)
        connection = getattr(stream, "_sock", stream)
        if isinstance(connection, ssl.SSLSocket):
            msg = "expected an engine on a local socket, got one over TLS: use an ssh tunnel to its socket"
            raise SandboxError(msg)
        # An own descriptor: the SDK closes its when the response is collected.
        return socket.socket(fileno=os.dup(connection.fileno()))

    def _ended_for_memory(self) -> bool:
        eng = engine()
        state = eng.call("inspect the container", eng.api.inspect_container, self._name)["State"]
        return bool(state["OOMKilled"])

    def _destroy(self) -> None:
        forget(self)
        name, self._name = self._name, None
        if name is not None:
            engine().remove(name)
