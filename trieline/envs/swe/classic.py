"""How the tests of classic rows are run: what swebench 4 knows of 66 repositories, if it is installed.

The tables are of that package, and none of them is copied here. swebench 5 has them no more: its rows carry
their `eval_script` themselves.
"""

from typing import Any

from trieline.envs.errors import TaskError
from trieline.envs.swe.repository_task import RepositoryTask, row_of

INSTALL = "pip install 'trieline[swe-classic]'"
ENVIRONMENT = "testbed"
"""The conda environment in the published images."""


def eval_script_of(task: RepositoryTask, *, workdir: str) -> str:
    """The script that swebench 4 makes of a classic row, as the rows of swebench 5 have it.

    Raises:
        TaskError: swebench 4 is not installed, or knows too little of this repository and version.
    """
    try:
        # The package is of types that nobody states; it takes 4 s and 170 MiB.
        from swebench.harness.constants import MAP_REPO_VERSION_TO_SPECS
        from swebench.harness.test_spec.create_scripts import make_eval_script_list
    except ImportError as error:
        msg = (
            f"{task.instance_id}: expected a row with eval_script, as those of swebench 5 have, "
            f"or swebench 4, which makes it of a classic row; got neither: {INSTALL}"
        )
        raise TaskError(msg) from error
    versions: dict[str, dict[str, Any]] = MAP_REPO_VERSION_TO_SPECS.get(task.repo, {})
    if task.version not in versions:
        known = ", ".join(versions) or "none"
        msg = (
            f"{task.instance_id}: expected a version of {task.repo} that swebench 4 knows ({known}), "
            f"got {task.version!r}"
        )
        raise TaskError(msg)
    specs = versions[task.version]
    try:
        lines = make_eval_script_list(
            row_of(task), specs, ENVIRONMENT, workdir, task.base_commit, task.test_patch
        )
    except (LookupError, ValueError, TypeError) as error:  # some of its versions have no test command
        msg = f"{task.instance_id}: swebench 4 could make no script of the row: {error!r}"
        raise TaskError(msg) from error
    return "\n".join(["#!/bin/bash", "set -uxo pipefail", *lines, ""])
