"""Candidates of a package whose tests pass: a mistake is made in its code, and what then fails is hidden."""

import hashlib
import random
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trieline.common.folders import scratch_folder
from trieline.envs.errors import DataError
from trieline.envs.mutation.mutations import PlacedMutation, drawn
from trieline.envs.swe.log_parsers.outcome import Outcome
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.task_making.package import Package
from trieline.envs.swe.task_making.removed_tests import Name, test_name, without_tests
from trieline.envs.swe.task_making.statements import seen_failing
from trieline.envs.swe.task_making.verification import (
    Candidate,
    Cause,
    Evidence,
    RefusedCandidateError,
    Workshop,
    snippet_of,
)

MOST_SOURCE = 512 * 1024
"""Bytes of a file that is mutated."""
PATIENCE = 5.0
LEAST_SECONDS = 20.0
"""A mutated package gets so many times the seconds of the sound one for its tests, and at least these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What the tests of the sound package say."""

    checkout: Path
    passing: frozenset[str]
    """In two runs of two."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MutatedPackage:
    """A version of a package, and all mistakes that can be made in it."""

    package: Package
    version: str
    files: Path
    """Its tree."""
    packages: Path
    """What its tests import."""
    workshop: Workshop
    seed: int

    def mutations(self) -> Iterator[PlacedMutation]:
        """All, in the order in which they are tried: the same each time."""
        return drawn(self.sources(), f"{self.seed} {self.package.name} {self.version}")

    def changes(self, placed: PlacedMutation) -> dict[str, bytes]:
        """The file that a mutation changes."""
        return {placed.path: placed.mutation.applied((self.files / placed.path).read_bytes())}

    def instance_id(self, kind: str, changes: Mapping[str, bytes]) -> str:
        """Of the task to undo changes: it names what became of which files."""
        digest = hashlib.sha256()
        for path, data in sorted(changes.items()):
            digest.update(path.encode() + b"\0" + data)
        return self.package.instance_id(f"{self.version}-{kind}-{digest.hexdigest()[:8]}")

    def baseline(self, checkout: Path) -> Baseline:
        """Make the checkout, and run all its tests twice.

        Raises:
            DataError: git can't take the files.
            RefusedCandidateError: the tests do not run to their end, or none passes.
        """
        shutil.rmtree(checkout, ignore_errors=True)
        self.workshop.checkout(self.files, self.packages, checkout)
        runs = [
            self.workshop.run_tests(
                self.package, checkout, self.package.tests, {}, self.workshop.wall_seconds
            )
            for _ in range(2)
        ]
        passing = [{test for test, said in told.items() if said is Outcome.PASSED} for told, _ in runs]
        if not (both := passing[0] & passing[1]):
            raise RefusedCandidateError(Cause.NOT_GRADED, "no test passes")
        return Baseline(
            checkout=checkout, passing=frozenset(both), seconds=max(result.seconds for _, result in runs)
        )

    def failing(self, changes: Mapping[str, bytes], baseline: Baseline) -> frozenset[str]:
        """The tests that fail with some files changed, all that there is to know of a mistake.

        Raises:
            RefusedCandidateError: none fails, or more than pass in the files that hold them.
            SandboxError: the sandbox failed.
        """
        seconds = min(self.workshop.wall_seconds, max(LEAST_SECONDS, PATIENCE * baseline.seconds))
        outcomes, _ = self.workshop.run_tests(
            self.package, baseline.checkout, self.package.tests, changes, seconds
        )
        failing = {test for test in baseline.passing if outcomes.get(test) is not Outcome.PASSED}
        if not failing:
            raise RefusedCandidateError(Cause.NOTHING_FAILS)
        # Those in the same files are all that the task will run.
        files = {test_name(test)[0] for test in failing}
        passing = [test for test in baseline.passing - failing if test_name(test)[0] in files]
        if len(passing) <= len(failing):
            message = f"{len(failing)} fail, {len(passing)} pass"
            raise RefusedCandidateError(Cause.MORE_FAIL_THAN_PASS, message)
        return frozenset(failing)

    def attempt(self, instance_id: str, changes: Mapping[str, bytes], baseline: Baseline) -> RepositoryTask:
        """The task to undo changes of files. Raises RefusedCandidateError, or SandboxError."""
        failing = self.failing(changes, baseline)
        if self.workshop.is_mended_elsewhere(self.package.repo, failing):
            raise RefusedCandidateError(Cause.DUPLICATE)
        with scratch_folder(self.workshop.scratch, prefix="mutated-") as scratch:
            before = scratch / "before"
            shutil.copytree(self.files, before, symlinks=True)
            for path, data in changes.items():
                (before / path).write_bytes(data)
            _hide(before, failing)
            candidate = Candidate(
                instance_id=instance_id,
                package=self.package,
                version=self.version,
                before=before,
                after=self.files,
                statement=self._statement,
            )
            try:
                return self.workshop.make(candidate, self.packages)
            except DataError as error:
                raise RefusedCandidateError(Cause.PATCH_REFUSED, str(error)) from error

    def sources(self) -> dict[str, bytes]:
        """The code of the sound package, by path; no links, and no files that are too large to be read."""
        paths = {path.relative_to(self.files).as_posix(): path for path in self.files.rglob("*.py")}
        return {
            name: path.read_bytes()
            for name, path in sorted(paths.items())
            if self.package.is_source(name)
            and path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= MOST_SOURCE
        }

    def _statement(self, evidence: Evidence) -> str | None:
        if not any(failure.error for failure in evidence.failures):
            return None
        rng = random.Random(f"{self.seed} {sorted(evidence.fail_to_pass)}")
        snippet = snippet_of(self.files, evidence)
        name_version = (self.package.name, self.version)
        return seen_failing(*name_version, evidence.failures, snippet, evidence.changed, rng)


def _hide(folder: Path, failing: Collection[str]) -> None:
    """Take these tests out of their files; a file from which they can't be taken goes as a whole."""
    by_file: dict[str, set[Name]] = {}
    for test in failing:
        path, name = test_name(test)
        by_file.setdefault(path, set()).add(name)
    for path, names in by_file.items():
        file = folder / path
        if not file.is_file() or file.is_symlink():
            continue
        left = without_tests(file.read_bytes(), names)
        if left is None:
            file.unlink()
        else:
            file.write_bytes(left)
