"""The logs of a run, one program's or all of them side by side, and what is added to them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trieline.common.text import visible
from trieline.config import ConfigError
from trieline.launcher.run_folder import RunFolder

POLL_S = 0.5
# Ample; of longer lines there are fewer.
BYTES_A_LINE = 1024


def logs_of(folder: RunFolder, process: str | None) -> list[Path]:
    """The log of a program, or all.

    Raises:
        ConfigError: it has none of that name, or there is none at all.
    """
    there = {path.stem: path for path in sorted(folder.logs.glob("*.log"))}
    if process is None and there:
        return list(there.values())
    if process not in there:
        msg = f"{folder.path}: expected a log of {', '.join(there) or 'a program that ran'}, got {process!r}"
        raise ConfigError(msg)
    return [there[process]]


def read_logs(
    folder: RunFolder, process: str | None, *, lines: int, follow: bool, goes_on: Callable[[], bool]
) -> Iterator[str]:
    """The last lines of each log, then, with `follow`, new ones until the run is over; safe to print."""
    tails: dict[Path, int] = {}
    for path in logs_of(folder, process):
        text, tails[path] = _added(path, max(0, path.stat().st_size - BYTES_A_LINE * max(1, lines)))
        yield from _named(path, text[-lines:] if lines else [], alone=process is not None)
    while follow:
        # Asked before the last look, so that nothing is missed.
        over = not goes_on()
        for path in logs_of(folder, process):
            text, tails[path] = _added(path, tails.get(path, 0))
            yield from _named(path, text, alone=process is not None)
        if over:
            return
        time.sleep(POLL_S)


def _added(path: Path, start: int) -> tuple[list[str], int]:
    """The whole lines from there on, and where they end."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return data[:end].decode(errors="replace").splitlines(), start + end


def _named(path: Path, lines: list[str], *, alone: bool) -> Iterator[str]:
    for line in lines:
        yield visible(line) if alone else f"{path.stem:<14} | {visible(line)}"
