"""Where the repository of a task is: an image under Docker, a checkout on this host under bubblewrap."""

from pathlib import Path
from typing import Literal

from trieline.envs.errors import TaskError
from trieline.envs.sandbox import SandboxSpec
from trieline.envs.swe.repository_task import RepositoryTask

WORKDIR = "/testbed"
PUBLISHED_IMAGE = "swebench/sweb.eval.x86_64.{name}:latest"
ROOT = 0


def workspace_spec(
    task: RepositoryTask, backend: Literal["docker", "bubblewrap", "none"], checkouts: Path | None
) -> SandboxSpec:
    """What a workspace of the task is made of.

    Under Docker: its image, else the one that SWE-bench publishes for its id. Under bubblewrap: the folder of
    its id in `checkouts`. Raises TaskError if there is none.
    """
    if backend == "docker":
        name = task.instance_id.lower().replace("__", "_1776_")
        image = task.image or PUBLISHED_IMAGE.format(name=name)
        return SandboxSpec(image=image, workdir=WORKDIR, writable_root=True, user=ROOT)
    if backend == "bubblewrap" and checkouts is not None and (checkouts / task.instance_id).is_dir():
        return SandboxSpec(checkout=str((checkouts / task.instance_id).resolve()), workdir=WORKDIR)
    where = f"a folder {task.instance_id} in {checkouts}" if checkouts else "a folder of checkouts"
    msg = f"{task.instance_id}: expected {where} to work on under {backend}, found none"
    raise TaskError(msg)
