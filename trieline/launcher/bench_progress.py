"""What a person sees of a benchmark while it runs: a line for each attempt at a task, and how far it is."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console

from trieline.launcher.progress import say


class BenchProgress:
    """Lines, and below them in a terminal where the run is. Used by one thread."""

    def __init__(self, *, left: int, total: int, resolved: int, console: Console | None = None) -> None:
        """Begin.

        Args:
            left: attempts at tasks that are still to be done.
            total: all of them, those of earlier starts included.
            resolved: of those that are done.
            console: where to; None: standard output.
        """
        self._console = console or Console(soft_wrap=True)
        self._left, self._total, self._resolved = left, total, resolved
        self._finished = self._broken = 0
        self._began = time.monotonic()
        self._status = self._console.status(self._line()) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._total > self._left:
            say(self._console, f"{self._total - self._left} of {self._total} are done already")
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def done(self, text: str, *, resolved: bool) -> None:
        """One is done."""
        self._finished += 1
        self._resolved += resolved
        self._say(text)

    def broke(self, text: str) -> None:
        """One could not be done."""
        self._finished += 1
        self._broken += 1
        self._say(text)

    def tick(self) -> None:
        """To be called now and then."""
        if self._status:
            self._status.update(self._line())

    def end(self, *texts: str) -> None:
        """Last words."""
        for text in texts:
            say(self._console, text)

    def _say(self, text: str) -> None:
        say(self._console, f"[{self._finished}/{self._left}] {text}")
        self.tick()

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        parts = [
            f"{self._total - self._left + self._finished} of {self._total}",
            f"{self._resolved} resolved",
        ]
        if self._broken:
            parts.append(f"{self._broken} broken")
        parts.append(_clock(seconds))
        if 0 < self._finished < self._left:
            parts.append(f"about {_clock(seconds / self._finished * (self._left - self._finished))} to go")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
