"""Folders that are whole or not there: written under another name, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end unless it was renamed away."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`, its files on the disk first. What stood at `target` is removed."""
    for path in source.rglob("*"):
        if path.is_file():
            _sync(path)
    source.chmod(0o755)
    if target.exists():
        retired = target.with_name(f".{target.name}-retired-{os.getpid()}")
        target.rename(retired)
        source.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        source.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
