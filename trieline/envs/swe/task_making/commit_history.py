"""Candidates out of the history of a git checkout: commits that change both code and tests."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from trieline.envs.errors import DataError
from trieline.envs.sandbox import ArchiveError, archives
from trieline.envs.swe.task_making.host_git import host_git
from trieline.envs.swe.task_making.package import Package
from trieline.envs.swe.task_making.package_files import MOST_BYTES
from trieline.envs.swe.task_making.verification import Candidate, noted

GIT_SECONDS = 300.0
SHORT_HASH = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One with one parent."""

    hash: str
    parent: str
    date: str
    """As ISO 8601."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitHistory:
    """Of a package; its checkout is only read."""

    package: Package
    checkout: Path

    def commits(self, most: int) -> Iterator[Commit]:
        """Those of the main line that may give a task, the latest first.

        Raises:
            DataError: it is no git checkout.
        """
        form = "--format=%H%x00%P%x00%cI%x00%B%x01"
        log = self._git("log", "--first-parent", f"--max-count={most}", form).decode("utf-8", "replace")
        for entry in log.split("\x01"):
            if not entry.strip():
                continue
            commit_hash, parents, date, message = entry.strip("\n").split("\0", 3)
            if len(parents.split()) != 1:
                continue
            listed = self._git("diff-tree", "-r", "--name-only", "--no-commit-id", "-z", commit_hash)
            paths = listed.decode("utf-8", "replace").split("\0")
            if any(map(self.package.is_source, paths)) and any(map(self.package.is_test_file, paths)):
                yield Commit(hash=commit_hash, parent=parents, date=date, message=message.strip())

    def instance_id(self, commit: Commit) -> str:
        """Of the task that a commit may give."""
        return self.package.instance_id(commit.hash[:SHORT_HASH])

    def candidate(self, commit: Commit, folder: Path) -> Candidate:
        """The commit over its parent, both unpacked in the empty `folder`. Raises DataError."""
        trees = {name: folder / name for name in ("before", "after")}
        for (name, tree), revision in zip(trees.items(), (commit.parent, commit.hash), strict=True):
            tree.mkdir()
            self._unpack(revision, tree, name)
        notes = commit.message.splitlines()
        version = commit.parent[:SHORT_HASH]
        return Candidate(
            instance_id=self.instance_id(commit),
            package=self.package,
            version=version,
            created_at=commit.date,
            before=trees["before"],
            after=trees["after"],
            statement=noted(self.package.name, version, notes, trees["after"]),
        )

    def _unpack(self, revision: str, folder: Path, name: str) -> None:
        packed = BytesIO(self._git("archive", "--format=tar", revision))
        try:
            with (
                archives.checked(packed, max_bytes=MOST_BYTES) as checked,
                tarfile.open(fileobj=checked, mode="r:") as tar,
            ):
                tar.extractall(folder, filter="data")
        except (ArchiveError, tarfile.TarError, OSError) as error:
            msg = f"{self.checkout}: {name} {revision}: {error}"
            raise DataError(msg) from error

    def _git(self, *arguments: str) -> bytes:
        try:
            return host_git(self.checkout, *arguments, seconds=GIT_SECONDS)
        except DataError as error:
            msg = f"expected a git checkout at {self.checkout}: {error}"
            raise DataError(msg) from error
