"""What SIGINT and SIGTERM mean to a program of ours: a request to stop, which it sees when it looks."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_signal(react: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, `react` is called with the name of each stop signal that comes.

    Only the main thread of a process hears signals: in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        react(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def default_stop_signals() -> None:
    """SIGINT and SIGTERM end this process, and are heard by no event loop."""
    # A wake-up descriptor is shared with the process that this one was forked from: what is written to it
    # here, that one takes for a signal of its own.
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def keep_handlers_from_children() -> None:
    """Processes that are forked from this one from now on are ended by the stop signals as any other.

    Their handlers would be this process's own: a library's pool of workers, told to end, would stop the
    program that made it.
    """
    forking = threading.local()

    def hold() -> None:
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def restore_with_defaults() -> None:
        default_stop_signals()
        restore()

    os.register_at_fork(before=hold, after_in_parent=restore, after_in_child=restore_with_defaults)


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Stop signals that come inside the block are delivered after it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        release_stop_signals()


def release_stop_signals() -> None:
    """For a process forked inside `stop_signals_held`, once its own handlers stand."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
