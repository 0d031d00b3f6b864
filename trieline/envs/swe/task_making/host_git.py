"""git on this host, on folders that are strangers': it runs with no configuration and no hook."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from trieline.envs.errors import DataError
from trieline.envs.swe.git import GIT, GIT_SECONDS, NO_CONFIGURATION


def host_git(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    seconds: float = GIT_SECONDS,
) -> bytes:
    """What it prints, run in a folder. Raises DataError if it fails, or can't be run there."""
    what = f"git {arguments[0]} in {folder}"
    try:
        done = subprocess.run(
            [*GIT, "-c", "gc.auto=0", "-c", "commit.gpgsign=false", *arguments],
            cwd=folder,
            env={**NO_CONFIGURATION, **(environment or {}), "PATH": os.environ["PATH"]},
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{what}: {error}"
        raise DataError(msg) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        msg = f"{what}: status {done.returncode}: {said}"
        raise DataError(msg)
    return done.stdout
