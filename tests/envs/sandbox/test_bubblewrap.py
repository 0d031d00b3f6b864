"""What only bubblewrap has: users, interpreters and parents of every kind."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import LIMITS, need
from tests.envs.sandbox.prefixes import install_trieline
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import bubblewrap, bundle, host_view
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox


@pytest.fixture(autouse=True)
def _need() -> None:
    need("bubblewrap")


@pytest.fixture
def sandbox() -> Iterator[BubblewrapSandbox]:
    with BubblewrapSandbox(LIMITS) as started:
        yield started


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} were still there after 20 s"
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [inner for child in children for inner in _descendants(child)]


def test_close_ends_every_process(sandbox: BubblewrapSandbox) -> None:
    assert sandbox._process is not None
    outer = sandbox._process.pid
    family = [outer, *_descendants(outer)]
    assert len(family) == 2
    sandbox.close()
    _await_end(family)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as another user")
def test_root_hands_on_none_of_its_rights(sandbox: BubblewrapSandbox) -> None:
    assert sandbox._process is not None
    for pid in _descendants(sandbox._process.pid):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert set(fields["Uid"].split()) == {str(bubblewrap.HOST_UID)}
        assert fields["Groups"].strip() == ""


OWNER = """
import os, sys, time
from trieline.envs.sandbox import SandboxLimits
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox
sandbox = BubblewrapSandbox(SandboxLimits())
sandbox.start()
status = "open('/proc/self/status').read().count('CapEff:\\t0000000000000000')"
done = sandbox.exec(["python3", "-c", f"import os; print(os.getuid(), {status})"])
print(done.stdout.decode().strip(), sandbox._process.pid, flush=True)
if len(sys.argv) > 1 and sys.argv[1] == "stay":
    time.sleep(600)
"""


def test_it_dies_with_its_owner(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    process = subprocess.Popen(
        [sys.executable, script, "stay"], stdout=subprocess.PIPE, cwd=Path.cwd(), env=_env()
    )
    try:
        assert process.stdout is not None
        outer = int(process.stdout.readline().split()[-1])
        family = [outer, *_descendants(outer)]
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()  # type: ignore[union-attr]
    _await_end(family)


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path.cwd())}


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)
@pytest.mark.skipif(
    not os.access("/usr/bin/python3", os.X_OK), reason="needs an interpreter that others can reach"
)
def test_it_works_for_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    # A copy of the package where that user can read it; its sandbox part needs no third-party module.
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install_trieline(folder)
        folder.chmod(0o755)
        command = [
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            OWNER,
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
            env={"PYTHONPATH": name, "PATH": os.environ["PATH"]},
        )
    assert done.stdout.split()[:2] == ["1000", "1"], textwrap.shorten(done.stderr, 2000)


def test_an_interpreter_outside_usr_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = Path(sys.base_prefix).resolve()
    if prefix.is_relative_to("/usr"):
        pytest.skip("this Python lies in /usr")
    python = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr(host_view, "interpreter", lambda: (python, prefix))
    with BubblewrapSandbox(LIMITS) as sandbox:
        assert said(sandbox, "import sys; print(sys.base_prefix)") == str(prefix)
        assert sandbox._process is not None
        owner = Path(f"/proc/{sandbox._process.pid}").stat().st_uid
        assert owner == (os.geteuid() or bubblewrap.HOST_UID)  # the kernel counts the processes of no root
        bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(.01)"
        result = run_python(sandbox, bomb, wall_seconds=2)
        assert result.timed_out or result.oom
        assert said(sandbox, "print('next')") == "next"


def test_it_outlives_the_thread_that_started_it() -> None:
    sandbox = BubblewrapSandbox(LIMITS)
    thread = threading.Thread(target=sandbox.start)
    thread.start()
    thread.join(30)
    try:
        time.sleep(0.1)
        assert sandbox._channel is not None
        assert not sandbox._channel.hung_up(0.2)
        assert said(sandbox, "print(1)") == "1"
    finally:
        sandbox.close()


def test_without_bwrap_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert bubblewrap.INSTALL in str(bubblewrap.reason_against())


def test_a_bwrap_that_does_not_work_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)  # the unprivileged user must be able to run it
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "No permissions to create new namespace" in str(bubblewrap.reason_against())


def test_a_failed_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "keeper_argv", lambda *_: ["/usr/bin/sh", "-c", "echo broken >&2; exit 3"])
    before = set(_descendants(os.getpid()))
    with pytest.raises(SandboxError, match="broken"):
        BubblewrapSandbox(LIMITS).start()
    assert {pid for pid in _descendants(os.getpid()) if _alive(pid)} <= before
