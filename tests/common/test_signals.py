import os
import signal
import subprocess
import sys
import threading

import pytest

from trieline.common.signals import on_stop_signal, stop_signals_held


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_is_told_by_its_name_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    heard: list[str] = []
    with on_stop_signal(heard.append):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert heard == [number.name] * 2
    assert signal.getsignal(number) is before


def test_another_thread_hears_none() -> None:
    def enter() -> None:
        with on_stop_signal(lambda name: None):
            pass

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_comes_while_signals_are_held_is_heard_afterwards() -> None:
    heard: list[str] = []
    with on_stop_signal(heard.append):
        with stop_signals_held():
            # To this thread: the process may have others, which take what is sent to the process.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert heard == []
        assert heard == ["SIGTERM"]


CHILD_OF_AN_EVENT_LOOP = """
import asyncio, multiprocessing, os, signal, time
from trieline.common.signals import keep_handlers_from_children

async def main():
    heard = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, "SIGTERM")
    keep_handlers_from_children()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    await asyncio.sleep(0.1)
    print(child.exitcode, heard)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    print(heard)

asyncio.run(main())
"""


def test_a_signal_to_a_forked_child_is_not_heard_by_the_event_loop_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD_OF_AN_EVENT_LOOP], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [f"-{signal.SIGTERM.value} []", "['SIGTERM']"]
