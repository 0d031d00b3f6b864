"""Sandboxes: where untrusted programs run. `open_sandbox` gives one, `shared_pool` lends warm ones."""

from trieline.envs.sandbox.backends import Backend, available_backends, open_sandbox
from trieline.envs.sandbox.base import ExecResult, Sandbox, SandboxLimits, Snapshot
from trieline.envs.sandbox.pool import SandboxPool, shared_pool

__all__ = [
    "Backend",
    "ExecResult",
    "Sandbox",
    "SandboxLimits",
    "SandboxPool",
    "Snapshot",
    "available_backends",
    "open_sandbox",
    "shared_pool",
]
