"""Who holds a lock is found, and nobody else is ever taken for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trieline.common import lock_holder as module
from trieline.common.errors import LockError
from trieline.common.file_lock import file_lock
from trieline.common.lock_holder import find_holder

HOLD = """
import sys, time
from pathlib import Path
from trieline.common.file_lock import file_lock
with file_lock(Path(sys.argv[1]), what="to test"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_that_nobody_holds_has_no_holder(path: Path) -> None:
    assert find_holder(path) is None
    # A number that was left there, of a process that lives: this one.
    path.write_text(str(os.getpid()))
    assert find_holder(path) is None


def test_its_holder_is_found_signalled_and_waited_for(path: Path, process: "subprocess.Popen[str]") -> None:
    holder = find_holder(path)
    assert holder is not None
    with holder:
        assert holder.pid == process.pid
        assert not holder.wait(0.05)
        holder.signal(signal.SIGTERM)
        assert holder.wait(20)
        assert process.wait() == -signal.SIGTERM
        # It is gone; who has its number now is not meant.
        holder.signal(signal.SIGKILL)
    assert find_holder(path) is None


def test_looking_does_not_take_the_lock(path: Path) -> None:
    with file_lock(path, what="to test", timeout_s=0):
        holder = find_holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()
        holder.close()
        holder.close()
    assert find_holder(path) is None
    with file_lock(path, what="to test", timeout_s=0):
        pass


@pytest.mark.parametrize(
    "text", [str(os.getpid()), "1", "999999999", "", "half a numb"], ids=["own", "1", "gone", "none", "half"]
)
def test_a_number_that_is_not_the_holders_is_not_believed(
    path: Path, process: "subprocess.Popen[str]", text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITING_S", 0.1)
    path.write_text(text)
    with pytest.raises(LockError, match="expected a process of this machine to hold"):
        find_holder(path)
