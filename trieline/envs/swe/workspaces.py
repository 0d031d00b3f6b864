"""Where the repository of a task is: an image under Docker, a checkout on this host under bubblewrap."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trieline.envs.errors import TaskError
from trieline.envs.sandbox import Backend, Sandbox, SandboxLimits, SandboxSpec, open_sandbox
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.swe.repository_task import RepositoryTask

WORKDIR = "/testbed"
PUBLISHED_IMAGE = "swebench/sweb.eval.x86_64.{name}:latest"
ROOT = 0


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
        return open_sandbox(self.backend, limits, self._spec(task))

    def _spec(self, task: RepositoryTask) -> SandboxSpec:
        """Under Docker: its image, else the one that SWE-bench publishes for its id."""
        if self.backend == "docker":
            name = task.instance_id.lower().replace("__", "_1776_")
            image = task.image or PUBLISHED_IMAGE.format(name=name)
            return SandboxSpec(image=image, workdir=WORKDIR, writable_root=True, user=ROOT)
        checkout = self.checkouts / task.instance_id if self.checkouts else None
        if self.backend == "bubblewrap" and checkout is not None and checkout.is_dir():
            return SandboxSpec(checkout=str(checkout.resolve()), workdir=WORKDIR)
        where = f"a folder {task.instance_id} in {self.checkouts}" if checkout else "a folder of checkouts"
        msg = f"{task.instance_id}: expected {where} to work on under {self.backend}, found none"
        raise TaskError(msg)


def workspaces_on(backend: Backend, checkouts: Path | None) -> Workspaces:
    """Those of a backend. `auto` is bubblewrap where there is a folder of checkouts: nothing else takes one.

    Raises:
        SandboxError: there is no such backend.
    """
    if backend == "auto" and checkouts is not None:
        backend = "bubblewrap"
    return Workspaces(backend=resolve_backend(backend), checkouts=checkouts)
