"""The root of all errors that a user can cause. Each package has a family of its own below it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TrielineError(Exception):
    """Its message says, in a line, what was expected and what came."""


class LockError(TrielineError):
    """Another process holds what this one needs alone. The message names its process id."""


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """An OSError from inside the block names the file: that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def in_one_line(error: Exception) -> str | None:
    """What a user needs to know of an error that a user can cause; None: it is another one."""
    if isinstance(error, TrielineError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return None
