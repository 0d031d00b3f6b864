"""Where the repository of a task is: an image under Docker, a checkout on this host under bubblewrap."""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from trieline.envs.errors import NoImageError, SandboxError, TaskError
from trieline.envs.sandbox import (
    WORKSPACE,
    Backend,
    Sandbox,
    SandboxLimits,
    SandboxSpec,
    bubblewrap,
    open_sandbox,
)
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.swe.repository_task import WORKDIR, RepositoryTask

PUBLISHED_IMAGE = "swebench/sweb.eval.x86_64.{name}:latest"
ROOT = 0
GRADING = replace(WORKSPACE, output_bytes=32 * 2**20, tail_bytes=16 * 2**20)
"""Limits for the tests. A log that lacks its middle grades nothing, so much is kept of it."""


def image_of(task: RepositoryTask) -> str:
    """Under Docker: the image that its row names, else the one that SWE-bench publishes for its id."""
    return task.image or PUBLISHED_IMAGE.format(name=task.instance_id.lower().replace("__", "_1776_"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspaces:
    """Opens clean ones."""

    backend: Literal["docker", "bubblewrap", "none"]
    checkouts: Path | None
    """A folder with one folder an instance, for bubblewrap."""

    def open(self, task: RepositoryTask, limits: SandboxLimits) -> Sandbox:
        """A started sandbox with the task's repository as its work folder. The caller closes it.

        Raises:
            SandboxError: it can't be started.
            TaskError: there is no repository for it.
        """
        try:
            return open_sandbox(self.backend, limits, self.spec(task))
        except NoImageError as error:
            remedy = "trieline images build --tasks ROWS --checkouts FOLDER, or docker pull"
            msg = f"{task.instance_id}: expected the image {image_of(task)}, found none ({remedy})"
            raise TaskError(msg) from error

    def spec(self, task: RepositoryTask) -> SandboxSpec:
        """What a workspace of the task is made of. Raises TaskError if there is no repository for it."""
        if self.backend == "docker":
            return SandboxSpec(image=image_of(task), workdir=WORKDIR, writable_root=True, user=ROOT)
        checkout = self.checkouts / task.instance_id if self.checkouts else None
        if self.backend == "bubblewrap" and checkout is not None and checkout.is_dir():
            return SandboxSpec(checkout=str(checkout.resolve()), workdir=WORKDIR)
        where = f"a folder {task.instance_id} in {self.checkouts}" if checkout else "a folder of checkouts"
        msg = f"{task.instance_id}: expected {where} to work on under {self.backend}, found none"
        raise TaskError(msg)


@cache
def _against_bubblewrap(_pid: int) -> str | None:
    """Tried once a process."""
    return bubblewrap.reason_against()


def workspaces_on(backend: Backend, checkouts: Path | None) -> Workspaces:
    """Those of a backend. `auto` is bubblewrap where there is a folder of checkouts: nothing else takes one.

    Raises:
        SandboxError: there is no such backend, or it can't be used here.
    """
    if backend == "auto" and checkouts is not None:
        if reason := _against_bubblewrap(os.getpid()):
            msg = f"expected bubblewrap for the repositories in {checkouts}: {reason}"
            raise SandboxError(msg)
        backend = "bubblewrap"
    return Workspaces(backend=resolve_backend(backend), checkouts=checkouts)
