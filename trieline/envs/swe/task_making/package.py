"""A package as tasks need it: where its code and its tests are, and how the tests are run in a workspace."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from trieline.envs.swe.git import PACKAGES
from trieline.envs.swe.repository_task import WORKDIR
from trieline.envs.swe.verdict import END, START

LOG_PARSER = "parse_log_pytest_v2"
"""The published one that keeps the blanks in the parameters of a test."""
_END_OF_PATCH = "EOF_114329324912"
_TEST_FILE = re.compile(r"test.*\.py|.*_tests?\.py")


def image_of(instance_id: str) -> str:
    """The name of the image that Docker is to have of a checkout; tags have neither capitals nor `+` here."""
    return f"trieline/task:{instance_id.lower().replace('+', '-')[:128]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """All paths are relative to the top of its source distribution or repository."""

    name: str
    """In the package index."""
    repo: str
    """`owner/name`: it is the beginning of the ids of tasks, too."""
    sources: tuple[str, ...]
    """Folders and files with the code that patches are about."""
    tests: tuple[str, ...]
    """Folders and files, in which nothing counts as code. They may lie below `sources`."""
    import_paths: tuple[str, ...] = (".",)
    """From which the code is imported: `src`, or the top."""
    arguments: tuple[str, ...] = ()
    """For pytest, beside ours. What a package asks for in `addopts` is left out: it wants plug-ins."""

    def is_test(self, path: str) -> bool:
        """Whether it lies in `tests`."""
        return any(PurePosixPath(path).is_relative_to(folder) for folder in self.tests)

    def is_test_file(self, path: str) -> bool:
        """Whether it is a file with tests, and not one that they use."""
        return self.is_test(path) and _TEST_FILE.fullmatch(path.rsplit("/", 1)[-1]) is not None

    def is_source(self, path: str) -> bool:
        """Whether it is Python code, and no test."""
        inside = any(PurePosixPath(path).is_relative_to(folder) for folder in self.sources)
        return inside and path.endswith(".py") and not self.is_test(path)

    def instance_id(self, name: str) -> str:
        """The id of a task; letters of a version that ids don't have are left out."""
        return re.sub(r"[^A-Za-z0-9_.+-]", "", f"{self.repo.replace('/', '__')}-{name}")

    def prepare(self) -> str:
        """Lines of bash before the tests."""
        paths = [str(PurePosixPath(WORKDIR, path)) for path in (*self.import_paths, PACKAGES)]
        return "\n".join(
            (
                f"cd {WORKDIR}",
                f"export PYTHONPATH={shlex.quote(':'.join(paths))}",
                "export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0",
            )
        )

    def test_command(self, files: Sequence[str]) -> str:
        """The line of bash that runs tests."""
        words = ["python3", "-m", "pytest", "-rfEsxXp", "-p", "no:cacheprovider", "-o", "addopts="]
        return shlex.join([*words, *self.arguments, *files])

    def eval_script(
        self, *, base_commit: str, test_patch: str, there: Sequence[str], files: Sequence[str]
    ) -> str:
        """The script of a row of swebench 5, which runs the tests by itself in its container.

        Args:
            base_commit: from which test files are taken back.
            test_patch: that is applied.
            there: files of the test patch that the base commit has.
            files: with the tests to run.
        """
        restore = [f"git checkout {base_commit} {shlex.join(there)}"] if there else []
        lines = (
            "#!/bin/bash",
            "set -uxo pipefail",
            self.prepare(),
            *restore,
            f"git apply --whitespace=nowarn - <<'{_END_OF_PATCH}'",
            test_patch.removesuffix("\n"),
            _END_OF_PATCH,
            f": '{START}'",
            self.test_command(files),
            f": '{END}'",
            *restore,
        )
        return "\n".join(lines) + "\n"
