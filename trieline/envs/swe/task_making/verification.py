"""A candidate becomes a task if its tests say so, run in clean workspaces, by the grader that will judge it.

Gold passes three times of three, a patch that mends nothing does not; tests that two runs of one tree tell
differently are left out; more tests pass before the patch than fail; no two tasks ask for the same; and the
statement holds no line of the patch. A candidate that falls short is refused, with its cause.
"""

import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from trieline.common.folders import scratch_folder
from trieline.envs.errors import EnvError, PatchError, TaskError
from trieline.envs.sandbox import ExecResult, Sandbox
from trieline.envs.sandbox.bubblewrap import give
from trieline.envs.swe.grading import Exam, Grade, exam_of, grade
from trieline.envs.swe.log_parsers.outcome import Outcome, Outcomes
from trieline.envs.swe.logs import parser_of
from trieline.envs.swe.patches import Patch, checked_patch
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.task_making.checkouts import commit, difference, lay_packages
from trieline.envs.swe.task_making.package import LOG_PARSER, Package, image_of
from trieline.envs.swe.task_making.removed_tests import source_of_test, test_name
from trieline.envs.swe.task_making.statements import (
    Failure,
    changed_lines,
    failures_told,
    tells,
    to_be_done,
)
from trieline.envs.swe.verdict import FAILURES


class Cause(StrEnum):
    """Why a candidate is refused."""

    NO_SOURCE_CHANGE = "no_source_change"
    NO_TEST_CHANGE = "no_test_change"
    PATCH_REFUSED = "patch_refused"
    """By what reads the patches of agents; or it is not text."""
    TIMED_OUT = "timed_out"
    NOT_GRADED = "not_graded"
    """The tests did not run to their end, or told of nothing."""
    NOTHING_FAILS = "nothing_fails"
    """Before the patch, of what passes after it."""
    MORE_FAIL_THAN_PASS = "more_fail_than_pass"
    GOLD_FAILS = "gold_fails"
    NO_STATEMENT = "no_statement"
    STATEMENT_TELLS = "statement_tells"
    DUPLICATE = "duplicate"
    SPLIT = "split"
    """No refusal: its parts were tried instead."""


NOTHING = (
    "diff --git a/.no-change b/.no-change\nnew file mode 100644\n--- /dev/null\n+++ b/.no-change\n"
    "@@ -0,0 +1 @@\n+nothing\n"
)
"""A patch that mends nothing. The empty one is never run."""
LEAST_STATEMENT = 40
"""Characters; below them it says nothing."""


class RefusedCandidateError(EnvError):
    """A candidate is no task."""

    def __init__(self, cause: Cause, message: str = "") -> None:
        super().__init__(f"{cause}: {message}" if message else cause)
        self.cause = cause


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a statement may be written from."""

    failures: Sequence[Failure]
    """Of the tests that the patch mends, in the order of the log."""
    fail_to_pass: Sequence[str]
    changed: frozenset[str]
    """Lines of the patch, none of which may be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What may become a task: two trees, and what to say of the difference."""

    instance_id: str
    package: Package
    version: str
    before: Path
    """The files that an agent starts with."""
    after: Path
    """The files as they should be, tests included."""
    statement: Callable[[Evidence], str | None]
    """None: nothing can be said."""
    created_at: str = ""
    """The day of the change, if it has one."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where candidates are tried. Threads may share one."""

    checkouts: Path
    """Gets a folder for each task."""
    scratch: Path
    """A folder on the same file system."""
    open_workspace: Callable[[Path], Sandbox]
    """A clean one on a checkout."""
    wall_seconds: float = 300.0
    """For one run of tests."""
    _known: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def remember(self, task: RepositoryTask) -> bool:
        """Count a task as made. False if there is one that asks for the same."""
        marks = {f"patch {task.repo} {task.patch}", _mark(task.repo, task.fail_to_pass)}
        with self._lock:
            if not self._known.isdisjoint(marks):
                return False
            self._known.update(marks)
            return True

    def is_mended_elsewhere(self, repo: str, tests: Collection[str]) -> bool:
        """Whether there is a task of a repository that mends just these tests."""
        with self._lock:
            return _mark(repo, tests) in self._known

    def checkout(self, files: Path, packages: Path, folder: Path) -> str:
        """Make `folder` a checkout of files, ready for a workspace; returns the hash of its commit."""
        shutil.copytree(files, folder, symlinks=True)
        base_commit = commit(folder)
        lay_packages(packages, folder)
        give(folder)
        return base_commit

    def make(self, candidate: Candidate, packages: Path) -> RepositoryTask:
        """The task, whose checkout is then among `checkouts`.

        Args:
            candidate: to be tried.
            packages: a folder with what its tests import, unpacked.

        Raises:
            RefusedCandidateError: it is none.
            SandboxError: a sandbox failed.
        """
        with scratch_folder(self.scratch, prefix="candidate-") as scratch:
            task = self._described(candidate, scratch / "difference")
            checkout = scratch / "checkout"
            base_commit = self.checkout(candidate.before, packages, checkout)
            assert base_commit == task.base_commit
            task = self._verified(candidate, task, checkout)
            if not self.remember(task):
                raise RefusedCandidateError(Cause.DUPLICATE)
            target = self.checkouts / task.instance_id
            shutil.rmtree(target, ignore_errors=True)
            checkout.rename(target)
        return task

    def _described(self, candidate: Candidate, repository: Path) -> RepositoryTask:
        """The task without its tests and its statement."""
        package = candidate.package
        shutil.copytree(candidate.before, repository, symlinks=True)
        base_commit = commit(repository)
        patch = _text(difference(repository, candidate.after, package.sources, without=package.tests))
        test_patch = _text(difference(repository, candidate.after, package.tests))
        if not patch:
            raise RefusedCandidateError(Cause.NO_SOURCE_CHANGE)
        if not test_patch:
            raise RefusedCandidateError(Cause.NO_TEST_CHANGE)
        try:
            _, tests = checked_patch(patch), checked_patch(test_patch)
        except PatchError as error:
            raise RefusedCandidateError(Cause.PATCH_REFUSED, str(error)) from error
        files = _test_files(package, tests)
        if not files:
            raise RefusedCandidateError(Cause.NO_TEST_CHANGE, "no file with tests is changed")
        there = [file.old_path for file in tests.files if file.old_path is not None]
        script = package.eval_script(base_commit=base_commit, test_patch=test_patch, there=there, files=files)
        return RepositoryTask(
            instance_id=candidate.instance_id,
            repo=package.repo,
            version=candidate.version,
            base_commit=base_commit,
            problem_statement="",
            patch=patch,
            test_patch=test_patch,
            fail_to_pass=(),
            pass_to_pass=(),
            created_at=candidate.created_at,
            image=image_of(candidate.instance_id),
            log_parser=LOG_PARSER,
            eval_script=script,
        )

    def _verified(self, candidate: Candidate, task: RepositoryTask, checkout: Path) -> RepositoryTask:
        try:
            exam = exam_of(task)
        except TaskError as error:
            raise RefusedCandidateError(Cause.NOT_GRADED, str(error)) from error
        before = self._graded(exam, NOTHING, checkout)
        first, second = (self._graded(exam, task.patch, checkout) for _ in range(2))
        fail_to_pass, pass_to_pass = split_tests(_outcomes(before), [_outcomes(first), _outcomes(second)])
        if not fail_to_pass:
            raise RefusedCandidateError(Cause.NOTHING_FAILS)
        if len(pass_to_pass) <= len(fail_to_pass):
            raise RefusedCandidateError(
                Cause.MORE_FAIL_THAN_PASS, f"{len(fail_to_pass)} fail, {len(pass_to_pass)} pass"
            )
        exam = replace(exam, fail_to_pass=fail_to_pass, pass_to_pass=pass_to_pass)
        if not self._graded(exam, task.patch, checkout).resolved:
            raise RefusedCandidateError(Cause.GOLD_FAILS, "the third time")
        statement = _statement(candidate, task.patch, before.log, fail_to_pass)
        return replace(
            task, fail_to_pass=fail_to_pass, pass_to_pass=pass_to_pass, problem_statement=statement
        )

    def _graded(self, exam: Exam, patch: str, checkout: Path) -> Grade:
        """A grade that the tests had their say in."""
        sandbox = self.open_workspace(checkout)
        try:
            found = grade(sandbox, exam, patch, wall_seconds=self.wall_seconds)
        finally:
            sandbox.close()
        if found.cause == "timed_out":
            raise RefusedCandidateError(Cause.TIMED_OUT, found.message)
        if found.cause or found.verdict is None:
            said = f"{found.cause}: {found.message}: {found.log[-300:]}"
            raise RefusedCandidateError(Cause.NOT_GRADED, said)
        return found

    def run_tests(
        self,
        package: Package,
        checkout: Path,
        files: Sequence[str],
        changes: Mapping[str, bytes],
        seconds: float,
    ) -> tuple[Outcomes, ExecResult]:
        """What the tests of a checkout say with some of its files changed, without any check of honesty.

        Raises:
            RefusedCandidateError: they did not run to their end.
            SandboxError: the sandbox failed.
        """
        sandbox = self.open_workspace(checkout)
        try:
            for path, data in changes.items():
                sandbox.write(path, data)
            lines = f"exec 2>&1\n{package.prepare()}\n{package.test_command(files)}"
            result = sandbox.exec(["bash", "-c", lines], wall_seconds=seconds)
        finally:
            sandbox.close()
        if result.timed_out:
            raise RefusedCandidateError(Cause.TIMED_OUT, f"after {result.seconds:.0f} s")
        log = result.stdout.decode("utf-8", "replace")
        outcomes = parser_of(LOG_PARSER)(log)
        if result.truncated or result.oom or result.over_disk or not outcomes:
            raise RefusedCandidateError(Cause.NOT_GRADED, log[-300:])
        return outcomes, result


def split_tests(before: Outcomes, after: Sequence[Outcomes]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fail-to-pass and pass-to-pass, in the order of the log; what passes in some runs only is in neither."""
    passing = [
        test
        for test in after[0]
        if all(run.get(test) is Outcome.PASSED for run in after) and test.isprintable() and "::" in test
    ]
    failing = [test for test in passing if test not in before or before[test] in FAILURES]
    return tuple(failing), tuple(test for test in passing if before.get(test) is Outcome.PASSED)


def _mark(repo: str, tests: Collection[str]) -> str:
    return f"tests {repo} {sorted(tests)}"


def _outcomes(found: Grade) -> Outcomes:
    assert found.verdict is not None
    return dict(found.verdict.outcomes)


def _text(patch: bytes) -> str:
    try:
        return patch.decode()
    except UnicodeDecodeError as error:
        raise RefusedCandidateError(Cause.PATCH_REFUSED, f"not UTF-8 at byte {error.start}") from error


def _test_files(package: Package, tests: Patch) -> list[str]:
    paths = dict.fromkeys(file.new_path for file in tests.files)
    return [path for path in paths if path is not None and package.is_test_file(path)]


def _statement(candidate: Candidate, patch: str, log: str, fail_to_pass: Sequence[str]) -> str:
    titles = set(map(title_of, fail_to_pass))
    titles |= {test.partition("::")[0] for test in fail_to_pass}  # a file that could not be imported
    changed = changed_lines(patch)
    statement = candidate.statement(
        Evidence(
            failures=[failure for failure in failures_told(log) if failure.title in titles],
            fail_to_pass=fail_to_pass,
            changed=changed,
        )
    )
    if statement is None or len(statement) < LEAST_STATEMENT:
        raise RefusedCandidateError(Cause.NO_STATEMENT)
    if tells(statement, changed):
        raise RefusedCandidateError(Cause.STATEMENT_TELLS)
    return statement


def noted(name: str, version: str, notes: Sequence[str], after: Path) -> Callable[[Evidence], str | None]:
    """The statement of a candidate of which people have said what it is; `after` is the mended tree."""
    return lambda evidence: to_be_done(
        name, version, notes, evidence.failures, snippet_of(after, evidence), evidence.changed
    )


def snippet_of(files: Path, evidence: Evidence) -> str | None:
    """The first test whose error is known, as it is typed in a tree."""
    first = next((failure.title for failure in evidence.failures if failure.error), None)
    for test in evidence.fail_to_pass:
        path, name = test_name(test)
        file = files / path
        if title_of(test) == first and file.is_file() and not file.is_symlink():
            return source_of_test(file.read_bytes(), name)
    return None


def title_of(test: str) -> str:
    """What pytest calls a test where it tells of its failure."""
    return test.partition("::")[2].replace("::", ".")
