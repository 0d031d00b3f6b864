"""`trieline tasks make`: a recipe becomes a folder of verified tasks, with a checkout for each.

    recipe.json       what it is made of          downloads/    files of the package index
    candidates.jsonl  what became of each         checkouts/    a repository for each task
    tasks.jsonl       the rows                    summary.json, summary.md

A candidate is tried once: a run that was stopped or killed goes on with the next. What can't be used (a file
that is not there, a package whose tests do not run) is named, and the rest goes on.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec

from trieline.common.errors import about_file
from trieline.common.file_lock import file_lock
from trieline.common.folders import scratch_folder, write_whole
from trieline.common.signals import on_stop_signal
from trieline.common.text import shortened
from trieline.config import ConfigError
from trieline.envs.errors import EnvError, SandboxError
from trieline.envs.sandbox import Sandbox
from trieline.envs.swe.repository_task import RepositoryTask, row_of, task_of
from trieline.envs.swe.task_making.commit_history import CommitHistory
from trieline.envs.swe.task_making.mutated_package import Baseline, MutatedPackage
from trieline.envs.swe.task_making.package_files import compile_all, unpack_sdist, unpack_wheel
from trieline.envs.swe.task_making.release_pair import ReleasePair
from trieline.envs.swe.task_making.release_parts import ReleaseParts
from trieline.envs.swe.task_making.verification import Cause, RefusedCandidateError, Workshop
from trieline.launcher.package_downloads import Form, download
from trieline.launcher.task_journal import TaskJournal, Tried, summary, summary_text
from trieline.launcher.task_recipes import History, Mutations, PackageRecipe, Release, TaskRecipe

ATTEMPTS_PER_TASK = 12
"""Mutations tried for each task that is wanted, where the recipe does not say: one in three gives one."""
SANDBOX_ATTEMPTS = 3
"""Of a candidate whose sandbox fails."""

Source = Mutations | Release | History
_KINDS: dict[type[Source], str] = {Mutations: "mutation", Release: "release", History: "history"}
KINDS = tuple(_KINDS.values())


@dataclass(frozen=True, kw_only=True)
class TaskMaking:
    """One run."""

    recipe: TaskRecipe
    recipe_folder: Path
    """From which its paths to checkouts go."""
    folder: Path
    open_workspace: Callable[[Path], Sandbox]
    """A clean one on a checkout."""
    packages: frozenset[str] | None = None
    """Only these; None: all."""
    kinds: frozenset[str] = frozenset(KINDS)
    workers: int = 1
    """Packages at once."""
    wall_seconds: float = 300.0
    """For one run of tests."""
    say: Callable[[str], None] = print
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> bool:
        """Make what is not made yet, and write the rows. False if it was stopped.

        Raises:
            ConfigError: the folder holds tasks of another recipe.
            LockError: another process works on it.
            OSError: it can't be written; names the file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / ".lock", what="to make tasks in its folder", timeout_s=0.0):
            self._keep_recipe()
            shutil.rmtree(self.folder / ".work", ignore_errors=True)  # of a run that was killed
            for name in ("checkouts", ".work"):
                (self.folder / name).mkdir(exist_ok=True)
            journal = TaskJournal(self.folder / "candidates.jsonl", self.folder / "checkouts")
            with on_stop_signal(lambda name: self._stop.set()):
                broken = self._make_all(journal)
            shutil.rmtree(self.folder / ".work", ignore_errors=True)
            self._write(journal, broken)
        return not self._stop.is_set()

    def _keep_recipe(self) -> None:
        path = self.folder / "recipe.json"
        written = msgspec.json.format(msgspec.json.encode(self.recipe), indent=2) + b"\n"
        with about_file(path):
            if path.exists() and path.read_bytes() != written:
                msg = f"expected a new folder, or one of the same recipe, got {self.folder} with another one"
                raise ConfigError(msg)
            write_whole(path, written)

    def _write(self, journal: TaskJournal, broken: dict[str, str]) -> None:
        rows = "".join(json.dumps(tried.row) + "\n" for tried in journal.made())
        write_whole(self.folder / "tasks.jsonl", rows.encode())
        found = summary(journal, [package.name for package in self.recipe.packages], broken)
        write_whole(self.folder / "summary.json", json.dumps(found, indent=2).encode() + b"\n")
        write_whole(self.folder / "summary.md", summary_text(found).encode())
        self.say(summary_text(found))

    def _make_all(self, journal: TaskJournal) -> dict[str, str]:
        """What could not be used, by what it is."""
        work = self.folder / ".work"
        workshop = Workshop(
            checkouts=self.folder / "checkouts",
            scratch=work,
            open_workspace=self.open_workspace,
            wall_seconds=self.wall_seconds,
        )
        for tried in journal.made():
            workshop.remember(task_of(tried.row))
        broken: dict[str, str] = {}
        with ThreadPoolExecutor(self.workers, thread_name_prefix="task-maker") as pool:
            running = {
                pool.submit(self._make_package, package, workshop, journal): package.name
                for package in self.recipe.packages
                if self.packages is None or package.name in self.packages
            }
            for future in as_completed(running):
                broken |= future.result()
        return broken

    def _make_package(
        self, recipe: PackageRecipe, workshop: Workshop, journal: TaskJournal
    ) -> dict[str, str]:
        broken: dict[str, str] = {}
        sources: list[Source] = [*recipe.releases]
        sources += [source for source in (recipe.history, recipe.mutations) if source is not None]
        sources = [source for source in sources if _KINDS[type(source)] in self.kinds]
        try:
            with scratch_folder(workshop.scratch, prefix="package-") as scratch:
                files = _PackageFiles(recipe=recipe, all=self.recipe, making=self, folder=scratch)
                for source in sources:
                    if self._stop.is_set():
                        break
                    try:
                        self._make_source(source, files, workshop, journal)
                    except (EnvError, OSError) as error:
                        name = f"{recipe.name}, {_named(source)}"
                        broken[name] = str(error)
                        self.say(f"{name}: broken: {shortened(error)}")
        except (EnvError, OSError) as error:
            broken[recipe.name] = str(error)
        return broken

    def _make_source(
        self, source: Source, files: "_PackageFiles", workshop: Workshop, journal: TaskJournal
    ) -> None:
        recipe = files.recipe
        turn = _Turn(recipe=recipe, kind=_KINDS[type(source)], journal=journal, making=self)
        match source:
            case Release():
                self._make_release(source, files, workshop, turn)
            case History():
                self._make_history(source, files, workshop, turn)
            case Mutations():
                self._make_mutations(source, files, workshop, turn)

    def _make_release(
        self, release: Release, files: "_PackageFiles", workshop: Workshop, turn: "_Turn"
    ) -> None:
        package = files.recipe.package
        instance_id = package.instance_id(f"{release.before}-to-{release.after}")
        if turn.is_over(instance_id):
            return
        if release.split:
            self._make_parts(release, files, workshop, turn)
            if not self._stop.is_set():
                turn.note(instance_id, Cause.SPLIT)
            return
        pair = ReleasePair(
            package=package,
            before=release.before,
            after=release.after,
            before_files=files.tree(release.before),
            after_files=files.tree(release.after),
        )
        turn.take(instance_id, partial(workshop.make, pair.candidate(), files.packages()))

    def _make_parts(
        self, release: Release, files: "_PackageFiles", workshop: Workshop, turn: "_Turn"
    ) -> None:
        later, baseline = files.tested(release.after, workshop)
        parts = ReleaseParts(later=later, earlier_files=files.tree(release.before))
        for changes in parts.parts(parts.changes(), baseline):
            instance_id = later.instance_id("fix", changes)
            if self._stop.is_set():
                return
            if not turn.is_over(instance_id):
                turn.take(instance_id, partial(later.attempt, instance_id, changes, baseline))

    def _make_history(
        self, history: History, files: "_PackageFiles", workshop: Workshop, turn: "_Turn"
    ) -> None:
        found = CommitHistory(
            package=files.recipe.package, checkout=(self.recipe_folder / history.checkout).absolute()
        )
        for commit in found.commits(history.commits):
            if self._stop.is_set() or turn.made() >= history.count:
                return
            instance_id = found.instance_id(commit)
            if turn.is_over(instance_id):
                continue
            with scratch_folder(workshop.scratch, prefix="commit-") as scratch:
                candidate = found.candidate(commit, scratch)
                turn.take(instance_id, partial(workshop.make, candidate, files.packages()))

    def _make_mutations(
        self, mutations: Mutations, files: "_PackageFiles", workshop: Workshop, turn: "_Turn"
    ) -> None:
        most = mutations.attempts or ATTEMPTS_PER_TASK * mutations.count
        if turn.made() >= mutations.count or turn.tried() >= most:
            return
        mutated, baseline = files.tested(mutations.version, workshop)
        for placed in mutated.mutations():
            if self._stop.is_set() or turn.made() >= mutations.count or turn.tried() >= most:
                return
            changes = mutated.changes(placed)
            instance_id = mutated.instance_id(placed.mutation.operator, changes)
            if not turn.is_over(instance_id):
                turn.take(instance_id, partial(mutated.attempt, instance_id, changes, baseline))


def _named(source: Source) -> str:
    match source:
        case Release():
            return f"release {source.before} to {source.after}"
        case History():
            return f"history of {source.checkout}"
        case Mutations():
            return f"mutations of {source.version}"


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """Candidates of one package and kind, one after the other."""

    recipe: PackageRecipe
    kind: str
    journal: TaskJournal
    making: TaskMaking

    def made(self) -> int:
        return len(self.journal.made(self.recipe.name, self.kind))

    def tried(self) -> int:
        return len(self.journal.tried(self.recipe.name, self.kind))

    def note(self, instance_id: str, cause: Cause, message: str = "") -> None:
        """Keep that a candidate is none."""
        self.journal.add(replace(self._tried(instance_id), cause=cause, message=message))
        self.making.say(f"{instance_id}: refused: {shortened(message or cause, 200)}")

    def _tried(self, instance_id: str) -> Tried:
        return Tried(instance_id=instance_id, package=self.recipe.name, kind=self.kind)

    def is_over(self, instance_id: str) -> bool:
        return instance_id in self.journal

    def take(self, instance_id: str, make: Callable[[], RepositoryTask]) -> None:
        """Try one, and keep what became of it. Raises SandboxError if a sandbox fails again and again."""
        try:
            task = _with_patience(make)
        except RefusedCandidateError as error:
            self.note(instance_id, error.cause, shortened(error))
            return
        self.journal.add(replace(self._tried(instance_id), row=row_of(task)))
        counts = f"{len(task.fail_to_pass)} to mend, {len(task.pass_to_pass)} to keep"
        self.making.say(f"{instance_id}: made: {counts}")


def _with_patience(make: Callable[[], RepositoryTask]) -> RepositoryTask:
    for _ in range(SANDBOX_ATTEMPTS - 1):
        try:
            return make()
        except SandboxError:
            continue
    return make()


@dataclass(frozen=True, kw_only=True)
class _PackageFiles:
    """What was unpacked of one package, as far as it was asked for."""

    recipe: PackageRecipe
    all: TaskRecipe
    making: TaskMaking
    folder: Path
    _tested: dict[str, tuple[MutatedPackage, Baseline]] = field(default_factory=dict)

    def tree(self, version: str) -> Path:
        """The source distribution of a version. Raises DataError."""
        folder = self.folder / f"sdist-{version}"
        if not folder.exists():
            file = self._download(f"{self.recipe.name}=={version}", "sdist", self.recipe.sdists[version])
            with _whole(folder) as scratch:
                unpack_sdist(file, scratch)
        return next(folder.iterdir())

    def packages(self) -> Path:
        """All wheels, in one folder. Raises DataError."""
        folder = self.folder / "packages"
        if not folder.exists():
            with _whole(folder) as scratch:
                for requirement in (*self.all.runner, *self.recipe.requires):
                    wheel = self._download(requirement, "wheel", self.all.wheels[requirement])
                    unpack_wheel(wheel, scratch)
                compile_all(scratch)
        return folder

    def tested(self, version: str, workshop: Workshop) -> tuple[MutatedPackage, Baseline]:
        """A version whose tests were run. Raises RefusedCandidateError if they don't run here."""
        if version not in self._tested:
            mutated = MutatedPackage(
                package=self.recipe.package,
                version=version,
                files=self.tree(version),
                packages=self.packages(),
                workshop=workshop,
                seed=self.all.seed,
            )
            self._tested[version] = mutated, mutated.baseline(self.folder / f"tested-{version}")
        return self._tested[version]

    def _download(self, requirement: str, form: Form, sha256: str) -> Path:
        return download(requirement, form, sha256, self.making.folder / "downloads")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Another folder to fill, which has the name of this one if all goes well."""
    with scratch_folder(folder.parent, prefix=".new-") as scratch:
        yield scratch
        scratch.rename(folder)
