"""One sandbox per backend, reset between tests. A backend that is missing fails in CI and skips elsewhere."""

import os
from collections.abc import Iterator
from functools import cache

import pytest

from trieline.envs.sandbox import Sandbox, SandboxLimits, available_backends, open_sandbox
from trieline.envs.sandbox.backends import Backend

MIB = 1024 * 1024
LIMITS = SandboxLimits(
    wall_seconds=5.0,
    memory_bytes=128 * MIB,
    pids=24,
    output_bytes=64 * 1024,
    disk_bytes=16 * MIB,
)
SEALED: list[Backend] = ["docker", "bubblewrap"]


@cache
def _reasons() -> dict[str, str | None]:
    return available_backends()


def need(backend: str) -> None:
    """Skip, or in CI fail, if the backend is not there."""
    reason = _reasons().get(backend)
    if reason is not None:
        wanted = os.environ.get("CI") or (backend == "docker" and os.environ.get("TRIELINE_WITH_DOCKER"))
        if wanted:
            pytest.fail(f"{backend} must be there, in CI and under scripts/with_docker.sh: {reason}")
        pytest.skip(reason)


def as_parameters(backends: list[Backend]) -> list[object]:
    """Docker's carry the mark `docker`."""
    marks = {"docker": (pytest.mark.docker,)}
    return [pytest.param(name, id=name, marks=marks.get(name, ())) for name in backends]


_kept: dict[str, Sandbox] = {}


def fresh(backend: Backend) -> Sandbox:
    """The sandbox of this backend, clean."""
    need(backend)
    if backend not in _kept:
        _kept[backend] = open_sandbox(backend, LIMITS)
    _kept[backend].reset()
    return _kept[backend]


@pytest.fixture(params=as_parameters([*SEALED, "none"]))
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Of every backend."""
    return fresh(request.param)


@pytest.fixture(params=as_parameters(SEALED))
def sealed(request: pytest.FixtureRequest) -> Sandbox:
    """Of every backend that isolates."""
    return fresh(request.param)


@pytest.fixture(scope="session", autouse=True)
def _close_all() -> Iterator[None]:
    yield
    while _kept:
        _kept.popitem()[1].close()
