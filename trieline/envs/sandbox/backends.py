"""Which backend runs untrusted programs on this machine. Never an unsandboxed one, unless by name."""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import bubblewrap, temporary
from trieline.envs.sandbox.base import Sandbox, SandboxLimits, SandboxSpec

logger = logging.getLogger(__name__)

DOCKER_SOCKET = Path("/var/run/docker.sock")
Backend = Literal["auto", "docker", "bubblewrap", "none"]


def _reason_against_docker() -> str | None:
    if "DOCKER_HOST" not in os.environ and not DOCKER_SOCKET.exists():
        return f"no Docker Engine answers: there is no {DOCKER_SOCKET}"
    from trieline.envs.sandbox import docker  # the SDK takes time and memory, and many runs never need it

    return docker.reason_against()


def available_backends() -> dict[str, str | None]:
    """Of each sandboxed backend, the reason why it can't be used here, or None if it can. Tries them out."""
    return {"docker": _reason_against_docker(), "bubblewrap": bubblewrap.reason_against()}


@cache
def _choose(_pid: int) -> Literal["docker", "bubblewrap"]:
    """Once a process, as it is said in the log once."""
    against_docker = _reason_against_docker()
    if against_docker is None:
        logger.info("untrusted programs run in Docker containers")
        return "docker"
    against_bubblewrap = bubblewrap.reason_against()
    if against_bubblewrap is None:
        logger.info(
            "untrusted programs run under bubblewrap, without a bound on cpus (%s)",
            against_docker,
        )
        return "bubblewrap"
    msg = (
        f"no sandbox for untrusted programs. Docker: {against_docker}. bubblewrap: {against_bubblewrap}. "
        f"To get one, run as root: {bubblewrap.INSTALL}. "
        "To train without code, leave the code environments out of `envs`."
    )
    raise SandboxError(msg)


def resolve_backend(backend: Backend) -> Literal["docker", "bubblewrap", "none"]:
    """What `auto` means on this machine. If there is no sandbox: SandboxError with the one command to run."""
    if backend not in get_args(Backend):
        msg = f"expected a sandbox backend of {', '.join(get_args(Backend))}, got {backend!r}"
        raise SandboxError(msg)
    return _choose(os.getpid()) if backend == "auto" else backend


def sweep(backend: Backend = "auto") -> None:
    """End and remove what killed processes of this user left, as the first sandbox of a process does.

    SandboxError if there is no sandbox, or it can't be done.
    """
    if resolve_backend(backend) == "docker":
        from trieline.envs.sandbox import docker

        docker.engine()  # sweeps when it is made
    temporary.sweep()


def open_sandbox(
    backend: Backend = "auto", limits: SandboxLimits | None = None, spec: SandboxSpec | None = None
) -> Sandbox:
    """A started sandbox. The caller closes it. SandboxError if the backend can't honour the spec."""
    limits, spec = limits or SandboxLimits(), spec or SandboxSpec()
    sandbox: Sandbox
    match resolve_backend(backend):
        case "docker":
            from trieline.envs.sandbox.docker import DockerSandbox

            sandbox = DockerSandbox(limits, spec)
        case "bubblewrap":
            sandbox = bubblewrap.BubblewrapSandbox(limits, spec)
        case "none":
            from trieline.envs.sandbox.unprotected import UnprotectedSandbox

            logger.warning(
                "untrusted programs run WITHOUT a sandbox, as this user: backend 'none' was asked for"
            )
            sandbox = UnprotectedSandbox(limits, spec)
    sandbox.start()
    return sandbox
