"""How every program writes its log, which only entry points configure."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import TextIO

from trieline.common.credentials import without_credentials
from trieline.common.text import LINES, visible

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"
CHATTY = ("httpx", "urllib3", "filelock", "matplotlib")


class _Formatter(logging.Formatter):
    """What strangers wrote, in a message or an error, moves no cursor of who reads the log.

    Addresses stand there without passwords.
    """

    def format(self, record: logging.LogRecord) -> str:
        return visible(without_credentials(super().format(record)), keep=LINES)


class _ToStderr(logging.StreamHandler[TextIO]):
    """To what stderr is at that moment: a live view puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _ToFile(logging.FileHandler):
    """A full disk loses lines, and is said once."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            sys.stderr.write(f"can't write {self.baseFilename}: {error.strerror}\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def start_log(*, level: int = logging.INFO) -> None:
    """Log to stderr, and nowhere else. For entry points."""
    root = logging.getLogger()
    root.handlers[:] = [_formatted(_ToStderr())]
    root.setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def file_handler(path: Path) -> logging.Handler:
    """A handler that adds to the file at `path`."""
    return _formatted(_ToFile(path, encoding="utf-8", errors="backslashreplace"))


def _formatted(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(_Formatter(LOG_FORMAT))
    return handler
