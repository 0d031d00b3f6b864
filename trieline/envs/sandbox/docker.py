"""Sandboxes in containers of Docker Engine."""

import logging
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker
import docker.errors
import requests

from trieline.envs.errors import NoImageError, SandboxError
from trieline.envs.sandbox import bundle, owner
from trieline.envs.sandbox.base import (
    NO_MORE_VARIABLES,
    ExecResult,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
    refuse,
)
from trieline.envs.sandbox.channel import AttachChannel, Channel
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget
from trieline.envs.sandbox.first_come import Line
from trieline.envs.sandbox.kept import KeptSandbox

logger = logging.getLogger(__name__)

IMAGE = "trieline/python:1"
SNAPSHOTS = "trieline/snapshot"
OWNER_LABEL = "trieline.owner"
ATTEMPT_LABEL = "trieline.attempt"
ENGINE_SECONDS = 60
"""For one call to the engine."""
DISK_SECONDS = 1.0
"""Between two looks at the size of a writable root."""
CONCURRENT_CALLS = 4
"""An engine that is asked for 64 containers at once times out on all of them."""

# requests' errors are OSErrors: connection refused, reset, timed out.
ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException, OSError)
T = TypeVar("T")


class Engine:
    """The connection of this process to the engine, with few calls at a time."""

    def __init__(self) -> None:
        self._line = Line()
        self._running = 0
        self._closed_by: int | None = None
        """The thread that ends the process: from then on only it is served."""
        self._left_behind: set[str] = set()
        """Containers that could not be removed."""
        self._unwanted_images: set[str] = set()
        """Those that containers still need."""
        try:
            self.api = docker.from_env(timeout=ENGINE_SECONDS).api
            self.api.ping()
        except ENGINE_ERRORS as error:
            msg = f"no Docker Engine answers: {error}"
            raise SandboxError(msg) from error
        close_at_exit(self)

    def call(self, what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """One call, in its turn. SandboxError says what it was for."""
        with self._line.turn(lambda: self._running < CONCURRENT_CALLS, 2 * ENGINE_SECONDS) as came:
            if not came:
                msg = f"waited {2 * ENGINE_SECONDS} s for the engine's turn to {what}"
                raise SandboxError(msg)
            if self._closed_by not in (None, threading.get_ident()):
                msg = f"the process ends: too late to {what}"
                raise SandboxError(msg)
            self._running += 1
        try:
            return function(*args, **kwargs)
        except ENGINE_ERRORS as error:
            msg = f"Docker Engine could not {what}: {error}"
            raise SandboxError(msg) from error
        finally:
            with self._line.change():
                self._running -= 1

    def remove(self, container: str) -> None:
        """End and remove a container, by name or id. No error if it is gone."""
        try:
            self.call(f"remove {container}", self._remove, container)
        except SandboxError as error:
            self._left_behind.add(container)
            logger.warning("%s; tried again with the next one, or swept at a later start", error)
            return
        for other in list(self._left_behind):
            self._left_behind.discard(other)
            self.remove(other)

    def _remove(self, container: str) -> None:
        try:
            self.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            if error.status_code != 409:  # somebody else is removing it at this moment
                raise
        for image in list(self._unwanted_images):
            self._remove_image(image)

    def sweep(self, *, own: bool = False) -> int:
        """Remove containers and snapshots whose owner, a process of this machine, is gone; says how many.

        `own`: those of this process, too.
        """
        swept = 0
        ended = {owner.this_process()} if own else set()
        filters = {"label": OWNER_LABEL}
        for container in self.call("list containers", self.api.containers, all=True, filters=filters):
            of = container["Labels"].get(OWNER_LABEL, "")
            if of in ended or owner.is_gone(of):
                logger.info("removing orphan container %s of %s", container["Id"][:12], of)
                self.remove(container["Id"])
                swept += 1
        for image in self.call("list snapshots", self.api.images, filters=filters):
            of = (image["Labels"] or {}).get(OWNER_LABEL, "")
            if of in ended or owner.is_gone(of):
                logger.info("removing orphan snapshot %s of %s", image["Id"], of)
                self.remove_image(image["Id"])
                swept += 1
        return swept

    def remove_image(self, image: str) -> None:
        """Remove an image, now or when the last container that needs it is gone."""
        try:
            self.call(f"remove the image {image}", self._remove_image, image)
        except SandboxError as error:
            logger.warning("%s; if it is left behind, a later start sweeps it", error)

    def _remove_image(self, image: str) -> None:
        self._unwanted_images.discard(image)
        try:
            self.api.remove_image(image)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            self._unwanted_images.add(image)

    def close(self) -> None:
        """At the end of the process: a last look for orphans of others, and for what a thread still made."""
        forget(self)
        with self._line.change():
            self._closed_by = threading.get_ident()
        with self._line.turn(lambda: self._running == 0, ENGINE_SECONDS):
            pass
        try:
            self.sweep(own=True)
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
    """A container whose process 1 is the keeper.

    The engine is called to start and end it, and never for an exec, but to see how large a writable root is.
    Memory holds the programs, the keeper (about 12 MB) and the writable folder together.
    """

    def __init__(self, limits: SandboxLimits, spec: SandboxSpec | None = None) -> None:
        super().__init__(limits, spec)
        refuse(
            self.spec,
            "docker",
            folder="it starts from images; make one of it with `docker import`",
            checkout="it starts from images; make one with it in it: see `images.make_of`",
        )
        self.image = self.spec.image or IMAGE
        self._name: str | None = None
        self._over_disk = False
        """Did the last container end because its writable root had grown too large?"""
        self._next_look = 0.0
        """At its disk (time.monotonic())."""

    def __str__(self) -> str:
        return f"Docker sandbox {self._name or '(not started)'}"

    def _another(self) -> "DockerSandbox":
        return DockerSandbox(self.limits, self.spec)

    def start_from(self, image: str) -> None:
        """Start in the state of a snapshot. A reset goes back to the image of the spec."""
        self.image = image
        try:
            self.start()
            self._pristine = False
        finally:
            self.image = self.spec.image or IMAGE

    def _launch(self, deadline: float) -> Channel:
        eng = engine()
        close_at_exit(self)
        # The name is known before the engine is asked, so a call that is cut short can still be undone.
        self._name = f"trieline-{uuid.uuid4().hex}"
        self._over_disk = False
        try:
            eng.call(f"create a container of {self.image}", self._create, eng)
            connection = eng.call("attach to the container", self._attach, eng)
            eng.call("start the container", eng.api.start, self._name)
        except BaseException:
            self._destroy()
            raise
        if time.monotonic() > deadline:
            logger.warning("%s: the engine took unusually long to start it", self)
        return AttachChannel(connection)

    def _create(self, eng: Engine) -> None:
        try:
            self._ask_for_container(eng)
        except docker.errors.ImageNotFound as error:
            remedy = f"build it: {build_command()}" if self.image == IMAGE else "nothing is pulled"
            msg = f"Docker Engine has no image {self.image} ({remedy})"
            raise NoImageError(msg) from error

    def _ask_for_container(self, eng: Engine) -> None:
        settings = bundle.settings(self.limits, self.spec, rlimits={}, watch_memory_bytes=0)
        eng.api.create_container(
            self.image,
            bundle.keeper_argv("python3", settings),
            name=self._name,
            entrypoint=[],
            user=f"{bundle.user(self.spec)}:{bundle.user(self.spec)}",
            working_dir="/" if self.spec.writable_root else str(self.workdir),
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
        limits, user = self.limits, bundle.user(self.spec)
        workdir = (
            f"rw,nosuid,nodev,exec,mode=0700,uid={user},gid={user},"
            f"size={limits.disk_bytes},nr_inodes={bundle.max_files(limits)}"
        )
        return {
            "network_mode": "none",
            # Without /dev/shm the writable folder is the only one. Where it is, its pages count as memory.
            "ipc_mode": "private" if self.spec.is_workspace else "none",
            "shm_size": limits.memory_bytes,
            "read_only": not self.spec.writable_root,
            "tmpfs": {} if self.spec.writable_root else {str(self.workdir): workdir},
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

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        wall_seconds: float | None = None,
        environment: Mapping[str, str] = NO_MORE_VARIABLES,
    ) -> ExecResult:
        run = partial(super().exec, argv, stdin=stdin, wall_seconds=wall_seconds, environment=environment)
        if not self.spec.writable_root:
            return run()
        ended = threading.Event()
        watch = threading.Thread(target=self._watch_disk, args=(ended,), name="disk-watch")
        watch.start()
        try:
            return run()
        finally:
            ended.set()
            watch.join()

    def _watch_disk(self, ended: threading.Event) -> None:
        """A writable root lies on the engine's disk, with no bound that every storage driver has."""
        eng, name = engine(), self._name
        # Not soon after the last look, of the program before: a short program would end later for it.
        while name is not None and not ended.wait(self._next_look - time.monotonic()):
            self._next_look = time.monotonic() + DISK_SECONDS
            try:
                found = eng.call("measure it", eng.api.containers, size=True, filters={"name": name})
                if any(container.get("SizeRw", 0) > self.limits.disk_bytes for container in found):
                    self._over_disk = True
                    eng.call("end it", eng.api.kill, name)
                    return
            except SandboxError as error:
                logger.warning("%s: %s", self, error)

    def snapshot(self) -> Snapshot:
        """The work folder, or an image of all that was changed where the root is writable."""
        return CommittedSnapshot(self) if self.spec.writable_root else super().snapshot()

    def _ended_at_bound(self) -> Literal["memory", "disk"] | None:
        if self._over_disk:
            return "disk"
        eng = engine()
        state = eng.call("inspect the container", eng.api.inspect_container, self._name)["State"]
        return "memory" if state["OOMKilled"] else None

    def _destroy(self) -> None:
        forget(self)
        name, self._name = self._name, None
        if name is not None:
            engine().remove(name)


class CommittedSnapshot:
    """A sandbox with a writable root at one moment, as an image that shares all but what was changed.

    The engine takes several times as long to list what was changed, for a copy of just that: it may compare
    all files of the image.
    """

    def __init__(self, origin: DockerSandbox) -> None:
        self._new_sandbox = origin._another
        self._image = f"{SNAPSHOTS}:{uuid.uuid4().hex}"
        eng = engine()
        close_at_exit(self)
        # The container's labels, and so its owner, become those of the image.
        eng.call("commit the container", eng.api.commit, origin._name, *self._image.split(":"))

    def start(self) -> DockerSandbox:
        sandbox = self._new_sandbox()
        sandbox.start_from(self._image)
        return sandbox

    def close(self) -> None:
        forget(self)
        engine().remove_image(self._image)
