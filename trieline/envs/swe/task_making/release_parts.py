"""A large release taken apart by the tests that it mends: each part is one fix, over all the others.

A change of the code is taken back in the later release, and the tests say what it was good for. Changes that
the same test needs belong together.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trieline.envs.mutation.source_edits import Edit, edited
from trieline.envs.swe.task_making.mutated_package import Baseline, MutatedPackage
from trieline.envs.swe.task_making.verification import RefusedCandidateError

NEAR_LINES = 3
"""Changes with at most so many lines between them are one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One place of a file that the release changed, as the edit of the later file that takes it back."""

    path: str
    edit: Edit


def taken_back(later: bytes, earlier: bytes) -> list[Edit]:
    """The edits of `later` that give `earlier` if all are made, each by itself."""
    new, old = later.splitlines(keepends=True), earlier.splitlines(keepends=True)
    places: list[tuple[int, int, int, int]] = []
    for tag, *place in difflib.SequenceMatcher(a=new, b=old, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        new_start, new_end, old_start, old_end = place
        if places and new_start - places[-1][1] <= NEAR_LINES:
            new_start, _, old_start, _ = places.pop()
        places.append((new_start, new_end, old_start, old_end))
    starts = [0]
    for line in new:
        starts.append(starts[-1] + len(line))
    return [Edit(start=starts[i], end=starts[j], text=b"".join(old[k:n])) for i, j, k, n in places]


@dataclass(frozen=True, kw_only=True)
class ReleaseParts:
    """What changed between two versions, fix by fix."""

    later: MutatedPackage
    earlier_files: Path

    def changes(self) -> list[Change]:
        """All, by file and place; files that one of the versions lacks stay as they are."""
        found = []
        for path, data in self.later.sources().items():
            earlier = self.earlier_files / path
            if earlier.is_file() and not earlier.is_symlink():
                found += [Change(path=path, edit=edit) for edit in taken_back(data, earlier.read_bytes())]
        return found

    def parts(self, changes: Sequence[Change], baseline: Baseline) -> Iterator[Mapping[str, bytes]]:
        """The changed files of each part, the smallest part first. Raises SandboxError."""
        needed = {}
        for change in changes:
            try:
                failing = self.later.failing(self._files([change]), baseline)
            except RefusedCandidateError:
                continue  # no test needs it, or nothing runs without it
            needed[change] = failing
        for together in sorted(joined(needed), key=len):
            yield self._files(together)

    def _files(self, changes: Sequence[Change]) -> Mapping[str, bytes]:
        edits: dict[str, list[Edit]] = {}
        for change in changes:
            edits.setdefault(change.path, []).append(change.edit)
        sources = self.later.sources()
        return {path: edited(sources[path], found) for path, found in edits.items()}


def joined(needed: Mapping[Change, frozenset[str]]) -> list[list[Change]]:
    """Changes in groups, so that no test is needed by two of them."""
    groups: list[tuple[list[Change], frozenset[str]]] = []
    for change, tests in needed.items():
        apart = [group for group in groups if group[1].isdisjoint(tests)]
        with_it = [group for group in groups if not group[1].isdisjoint(tests)]
        changes = [*(one for group in with_it for one in group[0]), change]
        groups = [*apart, (changes, tests.union(*(group[1] for group in with_it)))]
    return [changes for changes, _ in groups]
