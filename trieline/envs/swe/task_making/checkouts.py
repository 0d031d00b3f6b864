"""Repositories of one commit out of plain folders, and the patches between two of them, made by git alone.

The folders are strangers'. git runs with no configuration and no hook, and takes every file for bytes: what a
`.gitattributes` of theirs asks for (filters, line ends) is overruled.

What a package needs beside itself to run its tests lies in `.git/packages` of its checkout. git does not see
it, and no patch can touch it.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from trieline.envs.swe.git import PACKAGES, identity
from trieline.envs.swe.task_making.host_git import host_git

ATTRIBUTES = "* -text !eol -ident -filter !working-tree-encoding !diff !merge\n"
AUTHOR = ("trieline", "tasks@trieline.invalid", "2000-01-01T00:00:00Z")
"""Of every commit, so that its hash says what is in it and not when it was made."""
_IDENTITY = identity(*AUTHOR)


def commit(folder: Path) -> str:
    """Make the files of a folder the one commit of a new repository; returns its hash."""
    host_git(folder, "init", "-q", "--initial-branch=main", "--template=")
    info = folder / ".git/info"
    info.mkdir(exist_ok=True)
    (info / "attributes").write_text(ATTRIBUTES)
    host_git(folder, "add", "-A", "-f")
    host_git(folder, "commit", "-q", "--allow-empty", "--no-verify", "-m", "base", environment=_IDENTITY)
    return host_git(folder, "rev-parse", "HEAD").decode().strip()


def difference(repository: Path, files: Path, paths: Sequence[str], without: Sequence[str] = ()) -> bytes:
    """The patch from the commit of a repository to the files of another folder.

    Args:
        repository: the objects of the files stay in it, so it is no checkout for anybody.
        files: a folder without a repository of its own.
        paths: of files and folders that count; none: nothing does; `.`: all.
        without: those below them that do not.
    """
    if not paths:
        return b""
    index = repository / ".git/index.other"
    with_index = {"GIT_INDEX_FILE": str(index)}
    index.unlink(missing_ok=True)
    host_git(repository, f"--work-tree={files.resolve()}", "add", "-A", "-f", environment=with_index)
    options = ["--cached", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--binary"]
    chosen = [":(top)" if path == "." else f":(top,literal){path}" for path in paths]
    chosen += [f":(top,literal,exclude){path}" for path in without]
    return host_git(repository, "diff", *options, "HEAD", "--", *chosen, environment=with_index)


def lay_packages(packages: Path, checkout: Path) -> None:
    """Show the unpacked packages in a checkout, as links to the same files."""
    shutil.copytree(packages, checkout / PACKAGES, copy_function=os.link, symlinks=True)
