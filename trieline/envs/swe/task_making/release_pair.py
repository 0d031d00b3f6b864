"""A candidate of two releases: the tests of the later one over the source of the earlier one.

What was mended in between was mended by people, who said in the changelog what it was.
"""

from dataclasses import dataclass
from pathlib import Path

from trieline.envs.swe.task_making.changelogs import is_changelog, notes_of
from trieline.envs.swe.task_making.package import Package
from trieline.envs.swe.task_making.verification import Candidate, noted

MOST_CHANGELOG = 4 * 2**20
"""Bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasePair:
    """Two trees of one package."""

    package: Package
    before: str
    """The earlier version."""
    after: str
    before_files: Path
    after_files: Path

    def candidate(self) -> Candidate:
        """Everything between the two."""
        notes = notes_of(changelogs_in(self.after_files), self.after)
        return Candidate(
            instance_id=self.package.instance_id(f"{self.before}-to-{self.after}"),
            package=self.package,
            version=self.before,
            before=self.before_files,
            after=self.after_files,
            statement=noted(self.package.name, self.before, notes, self.after_files),
        )


def changelogs_in(folder: Path) -> dict[str, str]:
    """The texts of the changelogs of a tree, by path; only those at the top and in folders of documents."""
    found = {}
    for path in sorted([*folder.glob("*"), *folder.glob("docs/*"), *folder.glob("docs/source/*")]):
        name = path.relative_to(folder).as_posix()
        if is_changelog(name) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                found[name] = file.read(MOST_CHANGELOG).decode("utf-8", "replace")
    return found
