"""Files from the package index that pip is set up for, each held against the hash that a recipe names.

pip runs a program of every source distribution that it downloads. It is told here that Python is
`unbuilt_package`, which runs nothing, so what strangers wrote first runs in a sandbox.
"""

import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from trieline.common.folders import scratch_folder
from trieline.common.text import shortened
from trieline.envs.errors import DataError
from trieline.launcher import unbuilt_package

PIP_SECONDS = 300.0
Form = Literal["sdist", "wheel"]

_PIP = (
    "import runpy, sys; sys.executable = sys.argv.pop(1); sys.argv[0] = 'pip'; "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_OPTIONS: dict[Form, Sequence[str]] = {
    "sdist": ("--no-binary", ":all:"),
    # Of pure Python: it is used unpacked, by an interpreter that need not be this one.
    "wheel": (
        *("--only-binary", ":all:", "--platform", "any"),
        *("--implementation", "py", "--abi", "none", "--python-version", "3.11"),
    ),
}
_SUFFIXES: dict[Form, str] = {"sdist": ".tar.gz", "wheel": ".whl"}
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9._!+-]*)")


def download(requirement: str, form: Form, sha256: str | None, folder: Path) -> Path:
    """The file of `name==version`, from `folder` if it is there, else from the index.

    Args:
        requirement: one version of one package.
        form: the source distribution, or the wheel of pure Python.
        sha256: of the file; None: whatever the index gives.
        folder: in which it is kept.

    Raises:
        DataError: there is no such file, or it is another one; names the requirement.
        OSError: the folder can't be written; names the file.
    """
    if _REQUIREMENT.fullmatch(requirement) is None:
        msg = f"expected a package as name==version, got {requirement[:100]!r}"
        raise DataError(msg)
    kept = _kept(requirement, form, folder)
    if kept is None:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder, prefix=".download-") as scratch:
            kept = _fetched(requirement, form, sha256, scratch)
            kept = kept.rename(folder / kept.name)
    if sha256 is not None and (found := sha256_of(kept)) != sha256:
        msg = f"{requirement}: expected a file of SHA-256 {sha256}, got {kept} of {found}"
        raise DataError(msg)
    return kept


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(requirement: str, form: Form, folder: Path) -> Path | None:
    """Names of files spell `-`, `_` and `.` in any way."""
    wanted = _spelled(requirement.replace("==", "-"))
    for path in sorted(folder.glob(f"*{_SUFFIXES[form]}")):
        stem = path.name.removesuffix(_SUFFIXES[form])
        if _spelled("-".join(stem.split("-")[:2]) if form == "wheel" else stem) == wanted:
            return path
    return None


def _spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _fetched(requirement: str, form: Form, sha256: str | None, scratch: Path) -> Path:
    python = scratch / "python"
    words = [sys.executable, "-I", "-S", unbuilt_package.__file__]
    python.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    python.chmod(0o755)
    wanted = scratch / "requirements.txt"
    wanted.write_text(requirement + (f" --hash=sha256:{sha256}" if sha256 else "") + "\n")
    files = scratch / "files"
    command = [sys.executable, "-c", _PIP, str(python), "download", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-input", "--disable-pip-version-check"]
    command += [*_OPTIONS[form], "--dest", str(files), "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS, cwd=scratch
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{requirement}: pip did not download it within {PIP_SECONDS:.0f} s"
        raise DataError(msg) from error
    found = [path for path in files.glob("*") if path.name.endswith(_SUFFIXES[form])]
    if done.returncode != 0 or len(found) != 1:
        said = shortened(done.stderr.strip() or "nothing", 500)
        msg = f"{requirement}: expected pip to download one {form}, got {len(found)}: {said}"
        raise DataError(msg)
    return found[0]
