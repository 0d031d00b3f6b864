"""Small repositories as workspaces under bubblewrap, with a real pytest in them."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.envs.swe.repositories import Repository, Tree
from trieline.envs.sandbox import Sandbox, SandboxLimits, SandboxSpec, open_sandbox
from trieline.envs.sandbox.bubblewrap import give

WORKDIR = "/testbed"
IGNORED = (b"/vendor/\n", False)
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
LIMITS = SandboxLimits(
    wall_seconds=60.0,
    memory_bytes=1024**3,
    pids=64,
    output_bytes=8 * 2**20,
    tail_bytes=4 * 2**20,
    disk_bytes=256 * 2**20,
)


def make_checkout(folder: Path, tree: Tree) -> Repository:
    """A repository of one commit, and beside its files pytest, which git ignores."""
    repository = Repository(folder, {**tree, ".gitignore": IGNORED})
    site = folder / "vendor"
    for name in PYTEST:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), site / file)
    return repository


@contextmanager
def workspace(repository: Repository) -> Iterator[Sandbox]:
    """One, clean."""
    give(repository.folder)
    sandbox = open_sandbox(
        "bubblewrap", LIMITS, SandboxSpec(workdir=WORKDIR, checkout=str(repository.folder))
    )
    try:
        yield sandbox
    finally:
        sandbox.close()
