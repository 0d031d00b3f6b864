"""What every backend promises, the unsandboxed one included."""

import time

import pytest

from tests.envs.sandbox.conftest import LIMITS
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import Sandbox


def test_exec_gives_output_streams_and_exit_code(sandbox: Sandbox) -> None:
    code = "import sys; print(sys.stdin.read().upper(), end=''); print('oops', file=sys.stderr); sys.exit(3)"
    result = run_python(sandbox, code, stdin=b"hello")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"HELLO", b"oops\n")
    assert (result.timed_out, result.oom, result.truncated) == (False, False, False)
    assert 0 < result.seconds < LIMITS.wall_seconds


def test_exec_starts_in_the_workdir_with_a_clean_environment(sandbox: Sandbox) -> None:
    text = said(sandbox, "import os; print(os.getcwd(), sorted(os.environ))")
    # The interpreter adds LC_CTYPE itself in some locales.
    assert text.replace("'LC_CTYPE', ", "") == f"{sandbox.workdir} ['HOME', 'LANG', 'PATH', 'TMPDIR']"


def test_a_killed_program_reports_its_signal_as_a_shell_does(sandbox: Sandbox) -> None:
    assert (
        run_python(sandbox, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").exit_code == 128 + 11
    )


def test_a_missing_program_is_the_result_127(sandbox: Sandbox) -> None:
    result = sandbox.exec(["no-such-program"])
    assert result.exit_code == 127
    assert b"no-such-program" in result.stderr


def test_a_file_that_is_no_program_is_the_result_126(sandbox: Sandbox) -> None:
    sandbox.write("data", b"\x00\x01")
    assert sandbox.exec(["./data"]).exit_code == 126


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["x" * 200_000]], ids=["empty", "NUL", "huge"])
def test_a_command_that_can_not_be_one_is_refused(sandbox: Sandbox, argv: list[str]) -> None:
    with pytest.raises(ValueError, match="expected a command"):
        sandbox.exec(argv)


def test_files_are_written_and_read_back(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 1000
    sandbox.write("folder/inner/data.bin", data)
    assert sandbox.read("folder/inner/data.bin") == data
    assert sandbox.read(str(sandbox.workdir / "folder/inner/data.bin")) == data
    assert said(sandbox, "print(len(open('folder/inner/data.bin', 'rb').read()))") == str(len(data))
    sandbox.write("folder/inner/data.bin", b"short")
    assert sandbox.read("folder/inner/data.bin") == b"short"


def test_a_program_leaves_files_for_the_next(sandbox: Sandbox) -> None:
    said(sandbox, "open('left', 'w').write('here')")
    assert said(sandbox, "print(open('left').read())") == "here"
    assert sandbox.read("left") == b"here"


def test_reading_what_is_not_there_is_an_os_error(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        sandbox.read("absent")
    with pytest.raises(IsADirectoryError):
        sandbox.read(".")
    said(sandbox, "import os; os.mkdir('folder'); os.mkfifo('fifo')")
    with pytest.raises(OSError, match="regular"):
        sandbox.read("folder")
    with pytest.raises(OSError, match="regular"):
        sandbox.read("fifo")


def test_a_huge_file_is_not_read(sandbox: Sandbox) -> None:
    said(sandbox, f"open('big', 'wb').truncate({LIMITS.disk_bytes - 1})")
    with pytest.raises(OSError, match="at most 1000 bytes"):
        sandbox.read("big", max_bytes=1000)


@pytest.mark.parametrize(
    "path", ["../escape", "a/../../escape", "/etc/passwd", "/etc/../etc/passwd", "a\0b", "/"]
)
def test_paths_that_leave_the_workdir_are_refused(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(OSError, match=r"."):
        sandbox.read(path)
    with pytest.raises(OSError, match=r"."):
        sandbox.write(path, b"x")


def test_planted_links_are_not_followed(sandbox: Sandbox) -> None:
    said(
        sandbox,
        "import os; os.symlink('/etc/passwd', 'file'); os.symlink('/etc', 'folder'); os.symlink('.', 'here')",
    )
    for path in ("file", "folder/passwd", "here/file"):
        with pytest.raises(OSError, match=r"."):
            sandbox.read(path)
        with pytest.raises(OSError, match=r"."):
            sandbox.write(path, b"x")
    with pytest.raises(OSError, match=r"."):
        sandbox.write("here/new", b"x")


def test_a_program_that_sleeps_is_stopped_at_the_wall_clock_limit(sandbox: Sandbox) -> None:
    started = time.monotonic()
    result = run_python(sandbox, "print('on', flush=True); import time; time.sleep(600)", wall_seconds=0.3)
    assert result.timed_out
    assert (result.exit_code, result.stdout) == (137, b"on\n")
    assert time.monotonic() - started < 60
    assert said(sandbox, "print('next')") == "next"


def test_the_wall_clock_limit_can_be_lowered_and_not_raised(sandbox: Sandbox) -> None:
    result = run_python(sandbox, "import time; time.sleep(600)", wall_seconds=1e6)
    assert result.timed_out


def test_endless_output_is_cut(sandbox: Sandbox) -> None:
    code = "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"
    result = run_python(sandbox, code, wall_seconds=0.5)
    assert result.truncated
    assert result.timed_out
    assert result.stdout == b"x" * LIMITS.output_bytes
    assert result.stderr == b"y" * LIMITS.output_bytes


def test_output_of_just_the_limit_is_whole(sandbox: Sandbox) -> None:
    result = run_python(sandbox, f"import os; os.write(1, b'x' * {LIMITS.output_bytes})")
    assert len(result.stdout) == LIMITS.output_bytes
    assert not result.truncated


def test_a_program_that_does_not_listen_gets_its_stdin_all_the_same(sandbox: Sandbox) -> None:
    assert run_python(sandbox, "print('done')", stdin=b"x" * 1_000_000).stdout == b"done\n"
    closed = run_python(
        sandbox, "import os, time; os.close(0); time.sleep(.2); print('done')", stdin=b"x" * 1_000_000
    )
    assert closed.stdout == b"done\n"


def test_stdin_arrives_whole(sandbox: Sandbox) -> None:
    data = b"0123456789abcdef" * 60_000
    result = run_python(sandbox, "import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))", stdin=data)
    import zlib

    assert int(result.stdout) == zlib.crc32(data)


def test_a_gigabyte_is_not_to_be_had(sandbox: Sandbox) -> None:
    result = run_python(sandbox, "x = bytearray(1 << 30); print(len(x))")
    assert result.exit_code != 0
    assert b"1073741824" not in result.stdout
    assert result.oom or b"MemoryError" in result.stderr
    assert said(sandbox, "print('next')") == "next"


def test_a_file_can_not_outgrow_the_disk(sandbox: Sandbox) -> None:
    code = (
        f"f = open('big', 'wb', 0)\nfor _ in range({LIMITS.disk_bytes >> 20} + 4): f.write(b'x' * (1 << 20))"
    )
    run_python(sandbox, code)
    assert int(said(sandbox, "import os; print(os.path.getsize('big'))")) <= LIMITS.disk_bytes
    with pytest.raises(OSError, match=r"."):
        sandbox.write("more", b"x" * (LIMITS.disk_bytes + 1))


def test_what_holds_the_pipes_after_the_program_is_ended(sandbox: Sandbox) -> None:
    started = time.monotonic()
    code = "import subprocess; subprocess.Popen(['sleep', '600']); print('main ends')"
    result = run_python(sandbox, code)
    assert (result.exit_code, result.stdout, result.timed_out) == (0, b"main ends\n", False)
    assert time.monotonic() - started < LIMITS.wall_seconds


def test_reset_leaves_no_file(sandbox: Sandbox) -> None:
    hostile = """
import os
os.makedirs("a/b/c"); open("a/b/c/file", "w").write("x")
os.makedirs("locked/inner"); os.chmod("locked/inner", 0); os.chmod("locked", 0)
os.symlink("/etc", "link"); os.mkfifo("fifo"); os.mkdir(".wipe-0"); os.mkdir("x" * 255)
open(b"not-utf8-\\xff\\n", "w"); os.link("a/b/c/file", "hard")
import socket; socket.socket(socket.AF_UNIX).bind("socket")
for _ in range(1500): os.mkdir("deep"); os.chdir("deep")
"""
    said(sandbox, hostile)
    sandbox.reset()
    assert said(sandbox, "import os; print(os.listdir('.'))") == "[]"


def test_reset_leaves_no_mark_on_the_folder_itself(sandbox: Sandbox) -> None:
    marks = """
import array, fcntl, os, struct
entries = [(1, 0), (4, 0), (32, 0)]  # user, group and others: nothing at all
nothing = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry, 0xffffffff) for entry in entries)
left = []
for name in ("system.posix_acl_default", "user.mark"):
    try: os.setxattr(".", name, nothing)
    except OSError: continue  # not of this file system
    left.append(name)
folder = os.open(".", os.O_RDONLY)
flags = array.array("l", [0])
try:
    fcntl.ioctl(folder, 0x80086601, flags)
    flags[0] |= 0x40  # FS_NODUMP_FL, which everybody may set
    fcntl.ioctl(folder, 0x40086602, flags)
except OSError: pass
os.utime(".", (1, 1))
print(sorted(left))
"""
    look = """
import array, fcntl, os
flags = array.array("l", [0])
try: fcntl.ioctl(os.open(".", os.O_RDONLY), 0x80086601, flags)
except OSError: pass
open("mine", "w").write("x")
print(os.listxattr("."), flags[0], os.stat(".").st_atime > 1, open("mine").read(), os.listxattr("mine"))
"""
    before = said(sandbox, look)
    sandbox.reset()
    assert "system.posix_acl_default" in said(sandbox, marks)
    sandbox.reset()
    assert said(sandbox, look) == before


def test_ordinary_programs_find_what_they_need(sandbox: Sandbox) -> None:
    code = """
import asyncio, concurrent.futures, multiprocessing, os, socket, subprocess, sys, tempfile, threading
async def run():
    done = await asyncio.create_subprocess_exec("echo", "a", stdout=subprocess.PIPE)
    return (await done.communicate())[0]
assert asyncio.run(run()) == b"a\\n"
here, there = socket.socketpair()
here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
here.sendall(b"x" * 100_000)
there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server = socket.socket(socket.AF_UNIX); server.bind("socket"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("socket")
pipe, other = multiprocessing.get_context("fork").Pipe()
process = multiprocessing.get_context("fork").Process(target=other.send, args=(1,))
process.start(); assert pipe.recv() == 1; process.join()
with concurrent.futures.ThreadPoolExecutor(8) as threads: assert sum(threads.map(len, ["ab"] * 100)) == 200
files = [tempfile.TemporaryFile() for _ in range(100)]
print(socket.gethostname() != "", len(files))
"""
    assert said(sandbox, code) == "True 100"


def test_a_snapshot_starts_independent_copies(sandbox: Sandbox) -> None:
    said(sandbox, "import os; os.makedirs('a/b'); open('a/b/c', 'w').write('x'); os.symlink('a', 'link')")
    sandbox.write("run", b"#!/bin/sh\necho ran")
    said(sandbox, "import os; os.chmod('run', 0o755); os.chmod('a/b/c', 0)")
    snapshot = sandbox.snapshot()
    sandbox.write("a/later", b"x")
    copy = snapshot.start()
    again = snapshot.start()
    snapshot.close()
    try:
        assert said(copy, "import os; print(os.readlink('link'), os.listdir('a'))") == "a ['b']"
        assert copy.exec(["./run"]).stdout == b"ran\n"
        copy.write("a/new", b"1")
        for other in (again, sandbox):
            with pytest.raises(FileNotFoundError):
                other.read("a/new")
        assert sandbox.read("a/later") == b"x"
    finally:
        copy.close()
        again.close()


def test_close_is_idempotent_and_reset_starts_again(sandbox: Sandbox) -> None:
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxError, match="not running"):
        sandbox.exec(["true"])
    sandbox.reset()
    sandbox.start()
    assert said(sandbox, "print(1)") == "1"
