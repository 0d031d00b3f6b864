"""Sandboxes: where untrusted programs run. `open_sandbox` gives one, `shared_pool` lends warm ones."""

from trieline.envs.sandbox.archives import ArchiveError
from trieline.envs.sandbox.backends import Backend, available_backends, open_sandbox, sweep
from trieline.envs.sandbox.base import (
    WORKSPACE,
    ExecResult,
    Sandbox,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
    fork,
)
from trieline.envs.sandbox.places import Place, Places, shared_places
from trieline.envs.sandbox.pool import Loan, SandboxPool, shared_pool

__all__ = [
    "WORKSPACE",
    "ArchiveError",
    "Backend",
    "ExecResult",
    "Loan",
    "Place",
    "Places",
    "Sandbox",
    "SandboxLimits",
    "SandboxPool",
    "SandboxSpec",
    "Snapshot",
    "available_backends",
    "fork",
    "open_sandbox",
    "shared_places",
    "shared_pool",
    "sweep",
]
