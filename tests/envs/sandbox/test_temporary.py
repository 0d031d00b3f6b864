"""Folders and programs of a process that was killed are swept when the next one starts."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import LIMITS
from trieline.envs.sandbox import owner, temporary
from trieline.envs.sandbox.unprotected import UnprotectedSandbox

STAYS = """
import os, time
done, ready = os.pipe()
if os.fork():
    os.read(done, 1)
    os._exit(0)
os.setsid()  # out of reach of the end of the exec
print(os.getpid(), file=open("left", "w"), flush=True)
for end in range(3): os.close(end)
os.write(ready, b"x")
time.sleep(600)
"""
OWNER = f"""
import sys, threading, time
from trieline.envs.sandbox import SandboxLimits
from trieline.envs.sandbox.unprotected import UnprotectedSandbox
sandbox = UnprotectedSandbox(SandboxLimits(wall_seconds=600))
sandbox.start()
snapshot = sandbox.snapshot()
assert sandbox.exec([sys.executable, "-c", {STAYS!r}]).exit_code == 0
main = "import os, time; open('main', 'w').write(str(os.getpid())); time.sleep(600)"
threading.Thread(target=sandbox.exec, args=([sys.executable, "-c", main],)).start()
started = time.monotonic()
pid = b""
while not pid and time.monotonic() < started + 30:
    try: pid = sandbox.read("main")
    except OSError: time.sleep(0.01)
print(sandbox.read("left").decode().strip(), pid.decode(), sandbox.workdir, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_what_a_killed_process_left_is_swept(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        *pids, workdir = process.stdout.readline().decode().split()
        ends = [os.pidfd_open(int(pid)) for pid in pids]
        assert Path(workdir).is_relative_to(folder)
        assert temporary.sweep() == 0
        process.kill()
    assert len(list(folder.iterdir())) == 2
    assert temporary.sweep() == 2
    assert list(folder.iterdir()) == []
    for end in ends:
        assert select.select([end], [], [], 30)[0], "it was still there after 30 s"
        os.close(end)


def test_what_is_not_certainly_left_behind_is_left_alone(folder: Path) -> None:
    machine, boot, namespace, pid, _ = owner.this_process().split("/")
    mine = temporary.make()
    owners = {
        "none": None,
        "a": f"elsewhere/{boot}/{namespace}/{pid}/1",
        "b": f"{machine}/{boot}/1/{pid}/1",
        "c": "x",
    }
    for name, words in owners.items():
        outer = folder / f"{temporary.PREFIX}{name}"
        outer.mkdir()
        if words:
            (outer / "owner").symlink_to(words)
    os.mkfifo(folder / f"{temporary.PREFIX}fifo")
    (folder / f"{temporary.PREFIX}pipe").mkdir()
    os.mkfifo(folder / f"{temporary.PREFIX}pipe" / "owner")
    before = sorted(folder.iterdir())
    assert temporary.sweep() == 0
    assert sorted(folder.iterdir()) == before
    temporary.remove(mine)
    assert not mine.parent.exists()


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder: Path) -> None:
    treasure = folder / "treasure"
    treasure.mkdir()
    (treasure / "file").write_text("x")
    sandbox = UnprotectedSandbox(LIMITS)
    sandbox.start()
    swap = "import os, sys; here = os.getcwd(); os.rename(here, here + '-'); os.symlink(sys.argv[1], here)"
    assert sandbox.exec([sys.executable, "-c", swap, str(treasure)]).exit_code == 0
    sandbox.reset()
    assert (treasure / "file").read_text() == "x"
    sandbox.exec([sys.executable, "-c", swap, str(treasure)])
    sandbox.close()
    assert (treasure / "file").read_text() == "x"
    assert [entry.name for entry in folder.iterdir()] == ["treasure"]


def test_a_copy_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sandbox = UnprotectedSandbox(LIMITS)
    sandbox.start()
    snapshot = sandbox.snapshot()
    os.mkfifo(sandbox.workdir / "pipe")
    os.mkfifo(snapshot.folder / "pipe")
    for copy in (sandbox.snapshot, snapshot.start):
        with pytest.raises(OSError, match="named pipe"):
            copy()
        assert len([*tmp_path.iterdir()]) == 2, "the sandbox and its first snapshot"
    snapshot.close()
    sandbox.close()
    assert [*tmp_path.iterdir()] == []
