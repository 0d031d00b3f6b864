"""A sandbox for a whole repository, from checkout to patch: what Docker and bubblewrap promise alike."""

import contextlib
import io
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import MIB, SEALED, as_parameters, need
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import (
    ArchiveError,
    Sandbox,
    SandboxLimits,
    SandboxPool,
    SandboxSpec,
    bubblewrap,
    bundle,
    fork,
    open_sandbox,
)
from trieline.envs.sandbox.backends import Backend
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox

LIMITS = SandboxLimits(
    wall_seconds=60.0,
    memory_bytes=1024 * MIB,
    pids=256,
    output_bytes=16_000,
    tail_bytes=6000,
    disk_bytes=64 * MIB,
    open_files=512,
)
GIT = "git -c user.name=a -c user.email=a@b"
FILES = {
    "shapes/__init__.py": "from shapes.area import area\n",
    "shapes/area.py": "def area(width, height):\n    return width + height\n",
    "tests/test_area.py": "import unittest\nfrom shapes import area\n"
    "class TestArea(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(area(2, 3), 6)\n",
    "data/old/one": "1\n",
    "data/old/two": "2\n",
    "odd name\n.txt": "odd\n",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small package with a bug, a test that finds it, and a history of one commit."""
    folder = tmp_path_factory.mktemp("repository") / "shapes"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "link").symlink_to("shapes/area.py")
    (folder / "run").write_text("#!/bin/sh\necho ran\n")
    (folder / "run").chmod(0o755)
    subprocess.run(
        f"git init -q . && git add -A && {GIT} commit -q -m first", shell=True, cwd=folder, check=True
    )
    return folder


@pytest.fixture(scope="module", params=as_parameters(SEALED))
def made(request: pytest.FixtureRequest, repository: Path) -> Iterator[tuple[Backend, SandboxSpec]]:
    """A backend, and the spec of a workspace on the repository for it."""
    backend: Backend = request.param
    need(backend)
    if backend == "bubblewrap":
        bubblewrap.give(repository)
        yield backend, SandboxSpec(checkout=str(repository), workdir="/testbed")
        return
    from trieline.envs.sandbox import docker, images

    image = f"trieline/test-workspace:{uuid.uuid4().hex}"
    images.make_of(repository, image, workdir="/testbed")
    yield backend, SandboxSpec(image=image, writable_root=True, workdir="/testbed")
    docker.engine().remove_image(image)


@pytest.fixture
def workspace(made: tuple[Backend, SandboxSpec]) -> Iterator[Sandbox]:
    backend, spec = made
    sandbox = open_sandbox(backend, LIMITS, spec)
    yield sandbox
    sandbox.close()


def sh(sandbox: Sandbox, line: str, *, code: int = 0) -> str:
    done = sandbox.exec(SandboxSpec().line(line))
    assert done.exit_code == code, done
    return done.stdout.decode()


FIX = "sed -i 's/width + height/width * height/' shapes/area.py"
TEST = "python3 -B -m unittest -q tests.test_area"


def test_a_repository_from_checkout_to_patch(workspace: Sandbox, repository: Path) -> None:
    assert sh(workspace, "pwd; git status --short; git log --format=%s") == "/testbed\nfirst\n"
    assert sh(workspace, "./run; cat link").startswith("ran\ndef area")
    assert "AssertionError: 5 != 6" in workspace.exec(SandboxSpec().line(TEST)).stderr.decode()
    sh(workspace, FIX)
    sh(workspace, TEST)
    patch = sh(workspace, "git diff")
    assert "+    return width * height" in patch
    sh(workspace, f"{GIT} commit -q -a -m second && git stash list && git checkout -q HEAD~1")
    assert "width + height" in workspace.read("shapes/area.py").decode()
    workspace.write("fix.patch", patch.encode())
    sh(workspace, f"git apply fix.patch && {TEST}")
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "status", "--short"], cwd=repository, capture_output=True
    )
    assert done.stdout == b""


def test_two_forks_and_their_origin_go_ways_of_their_own(workspace: Sandbox) -> None:
    sh(workspace, f"{FIX}; rm -r data/old && mkdir data/old && echo 3 > data/old/three")
    sh(
        workspace,
        "rm link && echo file > link; rm -r tests; ln shapes/area.py hard; chmod 0 'odd name\n.txt'",
    )
    sh(
        workspace,
        "mkdir -p new/inner && mkfifo new/fifo && ln -s nowhere new/inner/link && echo t > /tmp/noted",
    )
    look = "find . -path ./.git -prune -o -printf '%p %y %m %l\n' | sort; cat /tmp/noted; git status --short"
    one, two = fork(workspace), fork(workspace)
    try:
        before = sh(workspace, look)
        assert sh(one, look) == before
        assert "./data/old/three" in before
        assert "./data/old/one" not in before
        assert "./link f" in before
        sh(one, "echo 1 > mark; rm -r data shapes/area.py")
        sh(two, "echo 2 > mark")
        further = fork(two)
        assert sh(further, "cat mark data/old/three") == "2\n3\n"
        further.close()
        assert sh(one, "cat mark; ls data", code=2) == "1\n"
        assert "mark" not in sh(workspace, "ls")
        assert sh(workspace, "python3 -c 'from shapes import area; print(area(2, 3))'") == "6\n"
        one.reset()
        assert sh(one, "git status --short; ls /tmp") == ""
    finally:
        one.close()
        two.close()


def test_a_shell_line_has_its_variables_and_leaves_nothing_to_the_next(workspace: Sandbox) -> None:
    line = SandboxSpec().line('cd data; echo "$GREETING $HOME"; export LEFT=1; set -o pipefail; sleep 600 &')
    done = workspace.exec(line, environment={"GREETING": "a b=c", "HOME": "/tmp/x"})
    assert (done.exit_code, done.stdout) == (0, b"a b=c /tmp/x\n")
    assert sh(workspace, 'pwd; echo "$LEFT$GREETING $HOME"; pgrep sleep; true') == "/testbed\n /tmp\n"
    assert sh(workspace, "echo $BASH_VERSION") != "\n"
    words = SandboxSpec(shell=("sh", "-c")).line("echo $0 $((1 + 1))")
    assert workspace.exec(words).stdout == b"sh 2\n"
    for bad in ({"": "x"}, {"A=B": "x"}, {"A": "\0"}, {"A": "x" * 200_000}):
        with pytest.raises(ValueError, match="expected"):
            workspace.exec(["true"], environment=bad)


def test_long_output_is_its_head_its_tail_and_a_count(workspace: Sandbox) -> None:
    done = workspace.exec(["sh", "-c", "seq 1000000; seq 10 >&2"])
    whole = b"".join(b"%d\n" % n for n in range(1, 1_000_001))
    assert done.stdout == whole[:10_000] + whole[-6000:]
    assert done.stdout_left_out == len(whole) - 16_000
    assert (done.stderr_left_out, done.truncated) == (0, True)
    exact = workspace.exec(["head", "-c", "16000", "/dev/zero"])
    assert (len(exact.stdout), exact.truncated) == (16_000, False)


def test_a_line_that_hangs_is_ended_and_the_files_stay(workspace: Sandbox) -> None:
    done = workspace.exec(SandboxSpec().line("echo 1 > kept; sleep 600 & sleep 600"), wall_seconds=1)
    assert (done.timed_out, done.exit_code) == (True, 137)
    assert sh(workspace, "cat kept; pgrep sleep; true") == "1\n"


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o640
            tar.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


def test_files_go_in_and_come_out_as_tars(workspace: Sandbox) -> None:
    workspace.put(tar_of({"shapes/area.py": b"def area(w, h):\n    return w * h\n", "new/a": b"x" * 3 * MIB}))
    sh(workspace, TEST)
    workspace.put(tar_of({"b": b"2"}), "new/inner")
    out = io.BytesIO()
    workspace.get(out, "new", max_bytes=4 * MIB)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert sorted(tar.getnames()) == ["a", "inner", "inner/b"]
        assert tar.getmember("a").size == 3 * MIB
        assert tar.getmember("inner/b").mode == 0o640
    with pytest.raises(ArchiveError, match="bytes together"):
        workspace.get(io.BytesIO(), "new", max_bytes=2 * MIB)
    with pytest.raises(FileNotFoundError):
        workspace.get(io.BytesIO(), "absent", max_bytes=MIB)
    with pytest.raises(ArchiveError, match="relative path"):
        workspace.put(tar_of({"first": b"1", "../out": b"1"}))
    assert "first" not in sh(workspace, "ls")
    sh(workspace, "mkdir out && ln -s / out/root")
    with pytest.raises(ArchiveError, match="stays inside"):
        workspace.get(io.BytesIO(), "out", max_bytes=MIB)
    sh(workspace, "rm out/root && mkfifo out/pipe")
    with pytest.raises(ArchiveError, match="pipe"):
        workspace.get(io.BytesIO(), "out", max_bytes=MIB)


def test_what_is_put_follows_no_link_that_a_program_planted(workspace: Sandbox) -> None:
    sh(
        workspace,
        "mkdir /tmp/own && ln -s /tmp/own planted && echo 1 > /tmp/own/file && ln -s /tmp/own/file tests/f",
    )
    for path in ("planted", "/etc", "../tmp"):
        with pytest.raises(OSError, match=r"."):
            workspace.put(tar_of({"x": b"1"}), path)
    with pytest.raises(OSError, match=r"."):
        workspace.put(tar_of({"planted/x": b"1"}))
    with pytest.raises(OSError, match=r"."):
        workspace.get(io.BytesIO(), "planted", max_bytes=MIB)
    workspace.put(tar_of({"tests/f": b"2"}))
    assert sh(workspace, "cat /tmp/own/file tests/f; ls /tmp/own") == "1\n2file\n"


def test_sparse_files_cost_an_error_and_not_the_disk_of_this_host(workspace: Sandbox) -> None:
    sh(workspace, f"mkdir big && truncate -s {60 * MIB} big/a big/b big/c big/d")
    with pytest.raises(OSError, match=r"more than|bytes together"):
        workspace.get(io.BytesIO(), "big", max_bytes=MIB)


def test_programs_of_a_repository_find_what_they_need(workspace: Sandbox) -> None:
    code = """
import multiprocessing, os, socket, tempfile
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
other, _ = server.accept(); other.sendall(b"over lo"); assert client.recv(9) == b"over lo"
lock = multiprocessing.Lock()
with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(len, ["ab"] * 9) == [2] * 9
files = [tempfile.TemporaryFile() for _ in range(400)]
print(len(files))
try: socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError as error: print(type(error).__name__, error.errno)
"""
    workspace.write("needs.py", code.encode())
    assert sh(workspace, "python3 needs.py") == "400\nOSError 101\n"


def test_it_is_as_hard_as_a_small_one(workspace: Sandbox) -> None:
    code = """
import ctypes, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print({int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
      status["NoNewPrivs"].strip(), status["Seccomp"].strip(), os.getuid())
os.kill(1, 9)
for act in (lambda: open("/usr/x", "w"), lambda: os.chroot("/tmp"), lambda: socket.sethostname("x"),
            lambda: open("/proc/1/mem", "rb"), lambda: os.listdir("/proc/1/fd")):
    try: act(); print("reached")
    except OSError: pass
c = ctypes.CDLL(None)
print(c.unshare(0x10000000), c.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None), c.umount2(b"/testbed", 2))
"""
    workspace.write("hostile.py", code.encode())
    assert sh(workspace, "python3 hostile.py").splitlines() == ["{0} 1 2 1000", "-1 -1 -1"]
    bomb = "while true; do sleep 60 & done"
    result = workspace.exec(SandboxSpec().line(bomb), wall_seconds=3)
    assert result.timed_out or result.oom or result.exit_code
    assert sh(workspace, "echo next") == "next\n"


def test_folders_too_deep_to_be_packed_are_their_makers_doing(workspace: Sandbox) -> None:
    deep = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\nopen('f', 'w').close()"
    sh(workspace, f'mkdir deep && cd deep && python3 -c "{deep}"')
    with pytest.raises(OSError, match=r"within each other|too long"):
        workspace.get(io.BytesIO(), "deep", max_bytes=10**8)
    with contextlib.suppress(OSError):
        workspace.snapshot().close()
    # It is a sandbox like any other after that.
    assert sh(workspace, "echo next") == "next\n"


def test_it_can_not_outgrow_its_disk(workspace: Sandbox) -> None:
    line = "for n in 1 2 3 4 5 6 7 8; do head -c 16777216 /dev/zero > /tmp/$n || break; done; sleep 3"
    workspace.exec(SandboxSpec().line(line))
    workspace.reset()
    assert sh(workspace, "git status --short; ls /tmp") == ""


def test_a_pool_of_workspaces_renews_them_while_nobody_waits(made: tuple[Backend, SandboxSpec]) -> None:
    backend, spec = made
    pool = SandboxPool(backend, LIMITS, spec, size=2)
    try:
        pool.warm()
        for _ in range(3):
            with pool.lend() as sandbox:
                assert sh(sandbox, "git status --short") == ""
                sh(sandbox, "rm -r tests; echo 1 > mine")
        assert len(pool._lent) + len(pool._idle) <= 2
    finally:
        pool.close()


def _start_and_stay(backend: Backend, spec: SandboxSpec) -> str:
    return (
        "import sys, time\n"
        "from trieline.envs.sandbox import *\n"
        f"sandbox = open_sandbox({backend!r}, {LIMITS!r}, {spec!r})\n"
        "copy = fork(sandbox)\n"
        "print('on', flush=True)\n"
        f"copy.exec(['sleep', '{MARKED}'])\n"
    )


MARKED = "86397"
"""Seconds, by which the tests find a program on this host."""


def _marked() -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"sleep {MARKED}"], capture_output=True, text=True)
    return found.stdout.split()


def test_nothing_is_left_of_a_process_that_is_killed(made: tuple[Backend, SandboxSpec]) -> None:
    import sys

    backend, spec = made
    process = subprocess.Popen([sys.executable, "-c", _start_and_stay(backend, spec)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    deadline = time.monotonic() + 60
    while not _marked():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(30)
    process.stdout.close()
    while _marked():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if backend == "docker":
        from trieline.envs.sandbox import docker

        engine = docker.engine()
        assert engine.sweep() >= 2
        left = engine.api.containers(all=True, filters={"label": docker.OWNER_LABEL})
        owners = [container["Labels"][docker.OWNER_LABEL].split("/")[3:4] for container in left]
        assert [str(process.pid)] not in owners


def test_without_an_overlay_the_checkout_is_copied(
    made: tuple[Backend, SandboxSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, spec = made
    if backend != "bubblewrap":
        pytest.skip("only bubblewrap lays one over")
    program = bundle._program()
    assert "user.overlay.opaque" in program
    monkeypatch.setattr(bundle, "_program", lambda: program.replace("user.overlay.opaque", "no.such.kind"))
    with BubblewrapSandbox(LIMITS, spec) as sandbox:
        assert "overlay" not in sh(sandbox, "grep /testbed /proc/self/mounts")
        sh(sandbox, f"git status --short && {FIX} && {TEST} && rm -r data")
        copy = fork(sandbox)
        assert (
            sh(copy, f"git status --short && {TEST}")
            == " D data/old/one\n D data/old/two\n M shapes/area.py\n"
        )
        copy.close()


def test_a_root_in_it_has_no_capability_either(made: tuple[Backend, SandboxSpec]) -> None:
    backend, spec = made
    sandbox = open_sandbox(backend, LIMITS, replace(spec, user=0))
    try:
        line = "grep -h ^Cap /proc/self/status | cut -f 2 | sort -u; id -u; chown 5 data 2>&1 || echo refused"
        zero, user, *_, refused = sh(sandbox, line).splitlines()
        assert (int(zero, 16), user, refused) == (0, "0", "refused")
    finally:
        sandbox.close()


def test_a_checkout_of_another_user_is_refused_with_the_remedy(tmp_path: Path) -> None:
    need("bubblewrap")
    (tmp_path / "own").mkdir()
    spec = SandboxSpec(checkout=str(tmp_path / "own"))
    if tmp_path.stat().st_uid == 0:
        with pytest.raises(SandboxError, match="chown -R"):
            open_sandbox("bubblewrap", LIMITS, spec)
    with pytest.raises(SandboxError, match="no checkout"):
        open_sandbox("bubblewrap", LIMITS, replace(spec, checkout=str(tmp_path / "absent")))
