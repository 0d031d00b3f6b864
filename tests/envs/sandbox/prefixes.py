"""A prefix with an interpreter and with Trieline installed in it, and a root folder, both made here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import trieline

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
NOT_NEEDED = shutil.ignore_patterns(
    "*-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "__pycache__", "config-*", "*.a"
)


def link(source: str, target: str) -> None:
    """A hard link where that can be, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def install_trieline(site_packages: Path) -> None:
    """The part of the package that needs no other, and the tests that programs must not see."""
    package = Path(trieline.__file__).parent
    shutil.copytree(package / "envs" / "sandbox", site_packages / "trieline/envs/sandbox")
    shutil.copytree(package / "envs" / "code", site_packages / "trieline/envs/code")
    shutil.copytree(package / "common", site_packages / "trieline/common")
    shutil.copy(package / "envs" / "errors.py", site_packages / "trieline/envs/errors.py")
    for part in ("trieline", "trieline/envs"):
        (site_packages / part / "__init__.py").touch()


def make_prefix(prefix: Path) -> Path:
    """As pyenv, conda or a `make install` leave it, with Trieline. Returns its interpreter."""
    base = Path(sys.base_prefix)
    library = prefix / "lib" / VERSION
    shutil.copytree(
        base / "lib" / VERSION, library, copy_function=link, ignore=NOT_NEEDED, ignore_dangling_symlinks=True
    )
    (prefix / "bin").mkdir()
    link(str((base / "bin" / VERSION).resolve()), str(prefix / "bin" / VERSION))
    (prefix / "bin" / "python3").symlink_to(VERSION)
    for shared in base.glob("lib/libpython*.so*"):
        link(str(shared.resolve()), str(prefix / "lib" / shared.name))
    install_trieline(library / "site-packages")
    return prefix / "bin" / VERSION


def make_root(root: Path) -> None:
    """A root folder with nothing but an interpreter, Trieline beside it, and the libraries of both."""
    python = make_prefix(root / "usr")
    modules = (root / "usr/lib" / VERSION / "lib-dynload").glob("_ctypes.*")
    told = subprocess.run(["ldd", python, *modules], capture_output=True, text=True, check=True)
    for path in set(re.findall(r"(/\S+)(?= \(0x)", told.stdout)):
        target = root / Path(path).parent.resolve().relative_to("/") / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(path, target)
    for name in ("lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
