"""Attacks on the sandboxed backends: by programs that want out, more than their share, or to stay."""

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import LIMITS, MIB, need
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import Sandbox, open_sandbox
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox


def test_programs_are_unprivileged(sealed: Sandbox) -> None:
    status = said(sealed, "print(open('/proc/self/status').read())")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1000"] * 4
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"


def test_programs_start_bounded_and_can_not_unbind_themselves(sealed: Sandbox) -> None:
    code = """
import json, resource
found = {}
for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_DATA", "RLIMIT_CORE"):
    soft, hard = resource.getrlimit(getattr(resource, name))
    found[name] = soft if soft == hard else None
    try:
        resource.setrlimit(getattr(resource, name), (hard + 1, hard + 1))
        raised = hard >= 0
    except (OSError, ValueError):
        raised = False
    assert not raised, name
print(json.dumps(found))
"""
    found = json.loads(said(sealed, code))
    bubblewrap = isinstance(sealed, BubblewrapSandbox)
    assert found["RLIMIT_FSIZE"] == LIMITS.disk_bytes
    assert found["RLIMIT_NOFILE"] == (128 if bubblewrap else 256)
    assert found["RLIMIT_DATA"] == (LIMITS.memory_bytes if bubblewrap else -1)
    assert found["RLIMIT_CORE"] == 0


def test_programs_are_ended_before_the_keeper_if_memory_runs_out(sealed: Sandbox) -> None:
    scores = "[open(f'/proc/{pid}/oom_score_adj').read().strip() for pid in ('self', 1)]"
    own, keeper = said(sealed, f"print(*{scores})").split()
    assert own == "1000"
    assert int(keeper) < 1000


def test_what_the_keeper_has_no_memory_for_is_an_error() -> None:
    need("bubblewrap")
    limits = replace(LIMITS, memory_bytes=64 * MIB, disk_bytes=256 * MIB)
    sandbox = open_sandbox("bubblewrap", limits)
    try:
        sandbox.write("fits", b"x" * 8 * MIB)
        with pytest.raises(SandboxError, match="its memory has no room for the bytes of this request"):
            sandbox.write("does not", b"x" * 200 * MIB)
        sandbox.reset()
        assert said(sandbox, "import os; print(os.listdir())") == "[]"
    finally:
        sandbox.close()


def test_only_the_workdir_can_be_written(sealed: Sandbox) -> None:
    # Every folder that is reachable, /proc apart (its entries are no storage), and every mount point.
    code = """
import os
mounts = [line.split()[1] for line in open("/proc/mounts")]
places = set(mounts) | {"/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/home", "/etc", "/usr"}
for top in ("/", "/dev", "/var", "/run", "/sys"):
    for folder, names, _ in os.walk(top):
        names[:] = [] if folder.count("/") > 3 else [n for n in names if (folder, n) != ("/", "proc")]
        places.add(folder)
written = []
for place in places:
    try:
        open(os.path.join(place, "planted"), "w").close()
        written.append(place)
    except OSError:
        pass
print(sorted(written))
"""
    assert said(sealed, code) == "['/work']"


def test_files_of_the_host_are_out_of_sight(sealed: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    secret.chmod(0o644)
    code = f"""
for path in ["/etc/shadow", "/root/.bashrc", {str(secret)!r}, {str(Path(__file__).resolve())!r},
             "/proc/1/environ", "/proc/1/mem", "/proc/1/root/etc/shadow", "/proc/kcore",
             "/proc/sysrq-trigger", "/dev/mem", "/dev/kmsg",
             "/var/run/docker.sock", "/proc/sys/kernel/core_pattern"]:
    for mode in ("rb", "ab"):
        try:
            with open(path, mode) as file:
                if mode == "rb" and "/proc/sys/" in path:
                    continue
                file.read(1) if mode == "rb" else None
                print("reached", path, mode)
        except OSError:
            pass
"""
    assert said(sealed, code) == ""


def test_there_is_no_network(sealed: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
for address in [("127.0.0.1", {server.getsockname()[1]}), ("8.8.8.8", 53), ("169.254.169.254", 80)]:
    try:
        socket.create_connection(address, timeout=1)
        print("connected to", address)
    except OSError:
        pass
try:
    socket.getaddrinfo("example.com", 80); print("resolved")
except OSError:
    pass
interfaces = [line.partition(":")[0].strip() for line in open("/proc/net/dev")][2:]
print(interfaces in (["lo"], []))
"""
        assert said(sealed, code).splitlines()[-1] == "True"
        assert len(said(sealed, code).splitlines()) <= 1


def test_abstract_sockets_of_the_host_are_out_of_reach(sealed: Sandbox) -> None:
    name = f"\0trieline-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r})"
        assert run_python(sealed, code).exit_code == 1


def test_odd_system_calls_are_refused(sealed: Sandbox) -> None:
    code = """
import ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, *arguments):
    if getattr(libc, name)(*arguments) != -1: print(name)
tried("unshare", 0x10000000)
tried("ptrace", 16, 1, 0, 0)
tried("setns", 0, 0)
tried("shmget", 0, 4096, 0o1600)
tried("msgget", 0, 0o1600)
tried("semget", 0, 1, 0o1600)
tried("memfd_create", b"hidden", 0)
tried("syscall", 447, 0)  # memfd_secret
tried("vmsplice", 1, None, 0, 0)
tried("setpriority", 0, 1, 19)
tried("setpriority", 2, 0, 19)
tried("setpriority", 1, 1, 19)
tried("kill", 1, 19)
NAMESPACES = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
tried("syscall", NAMESPACES, 0x10000000 | 17, 0, 0, 0, 0)
for family in (17, 38, 40):   # packet, crypto, vsock
    try: socket.socket(family, socket.SOCK_RAW); print("socket", family)
    except OSError: pass
for act in (lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)), lambda: os.sched_setaffinity(1, [0]),
            lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
            lambda: os.setuid(0), lambda: os.chroot("/work")):
    try: act()
    except OSError: continue
"""
    priority = "import os; print(os.getpriority(0, 1))"
    before = said(sealed, priority)
    refused = said(sealed, code)
    assert refused in ("", "kill")  # a signal to process 1 is accepted, and dropped by the kernel
    assert said(sealed, priority) == before


def test_programs_can_not_touch_the_keeper(sealed: Sandbox) -> None:
    code = """
import os, resource, signal
for number in range(1, 65):
    try: os.kill(1, number)
    except (OSError, ValueError): pass
for name in ("fd", "mem", "maps", "environ", "cwd", "root", "exe", "io", "map_files"):
    for act in (os.listdir, os.readlink, lambda p: open(p, "rb").read(1)):
        try: act("/proc/1/" + name); print("reached", name)
        except OSError: pass
for name in ("oom_score_adj", "timerslack_ns", "mem", "autogroup", "comm", "clear_refs"):
    try: os.write(os.open("/proc/1/" + name, os.O_WRONLY), b"1"); print("wrote", name)
    except OSError: pass
for act in (lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)), lambda: os.sched_setaffinity(1, [0]),
            lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
            lambda: os.setpriority(0, 1, 19)):
    try: act(); print("changed")
    except OSError: pass
"""
    assert said(sealed, code) == ""
    assert said(sealed, "import os; print(os.sched_getscheduler(1) == os.SCHED_OTHER)") == "True"


def test_a_program_inherits_only_its_three_pipes(sealed: Sandbox) -> None:
    assert (
        said(sealed, "import os; print([fd for fd in range(256) if os.path.exists(f'/proc/self/fd/{fd}')])")
        == "[0, 1, 2]"
    )


def test_results_can_not_be_forged_through_output(sealed: Sandbox) -> None:
    frame = b'\x00\x00\x00\x10\x00\x00\x00\x00{"exit_code": 0}'
    result = run_python(
        sealed, f"import os, sys; os.write(1, {frame!r} * 9); os.write(2, {frame!r}); sys.exit(5)"
    )
    assert (result.exit_code, result.stdout, result.stderr) == (5, frame * 9, frame)


def test_a_fork_bomb_stays_inside(sealed: Sandbox) -> None:
    code = """
import os, time
while True:
    try: os.fork()
    except OSError: time.sleep(0.01)
"""
    result = run_python(sealed, code, wall_seconds=1.0)
    assert result.timed_out or result.oom
    sealed.reset()
    assert (
        said(sealed, "import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[0:1])")
        == "[1]"
    )


def test_processes_are_counted(sealed: Sandbox) -> None:
    code = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        made += 1
except BlockingIOError:
    print(made)
"""
    assert 1 <= int(said(sealed, code)) < LIMITS.pids + 1


def test_the_disk_is_bounded_over_many_files(sealed: Sandbox) -> None:
    code = """
written = 0
try:
    for n in range(10_000):
        with open(f"f{n}", "wb") as file: written += file.write(b"x" * 65536)
except OSError:
    pass
print(written)
"""
    assert int(said(sealed, code)) <= LIMITS.disk_bytes
    sealed.reset()
    said(sealed, f"open('again', 'wb').write(b'x' * {LIMITS.disk_bytes - MIB})")


def test_empty_files_are_bounded_in_number(sealed: Sandbox) -> None:
    code = "import os\nfor n in range(1 << 20): os.mknod(f'f{n}')\nprint('all')"
    result = run_python(sealed, code)
    assert b"all" not in result.stdout
    sealed.reset()
    assert said(sealed, "import os; print(len(os.listdir('.')))") == "0"


BACKGROUND = """
import os, subprocess, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        while True: time.sleep(0.01); open("alive", "w").write("x")
    os._exit(0)
print("main ends")
"""


def test_no_process_outlives_exec(sealed: Sandbox) -> None:
    assert run_python(sealed, BACKGROUND).stdout == b"main ends\n"
    code = "import os; print({p for p in os.listdir('/proc') if p.isdigit()} - {'1', str(os.getpid())})"
    assert said(sealed, code) == "set()"


def test_a_time_out_ends_every_process(sealed: Sandbox) -> None:
    result = run_python(sealed, BACKGROUND + "time.sleep(600)", wall_seconds=0.5)
    assert result.timed_out
    said(sealed, "import os; os.path.exists('alive') and os.unlink('alive')")
    assert said(sealed, "import os, time; time.sleep(0.1); print(os.path.exists('alive'))") == "False"


def test_reset_leaves_nothing_of_the_former_task(sealed: Sandbox) -> None:
    run_python(sealed, BACKGROUND)
    said(sealed, "import os; open('kept-open', 'w').write('x' * 100_000); os.mkdir('d'); os.chmod('.', 0)")
    sealed.reset()
    code = """
import os
usage = os.statvfs("/work")
processes = [p for p in os.listdir("/proc") if p.isdigit() and p not in ("1", str(os.getpid()))]
ipc = sum(len(open(f"/proc/sysvipc/{kind}").readlines()) - 1 for kind in ("shm", "sem", "msg"))
mode = os.stat("/work").st_mode & 0o777
print(os.listdir("/work"), processes, ipc, usage.f_blocks - usage.f_bfree, oct(mode))
"""
    assert said(sealed, code) == "[] [] 0 0 0o700"


def test_a_snapshot_of_a_sparse_file_is_refused(sealed: Sandbox) -> None:
    # RLIMIT_FSIZE bounds one file; a few of them still pretend to hold more than there is.
    said(sealed, f"for n in range(8): open(f'sparse{{n}}', 'wb').truncate({LIMITS.disk_bytes})")
    with pytest.raises(OSError, match="more than"):
        sealed.snapshot()
    assert said(sealed, "print('next')") == "next"


def test_a_full_snapshot_fits_beside_the_memory_limit(sealed: Sandbox) -> None:
    said(sealed, f"open('full', 'wb').write(b'x' * {LIMITS.disk_bytes - MIB})")
    snapshot = sealed.snapshot()
    copy = snapshot.start()
    try:
        assert said(copy, "import os; print(os.path.getsize('full'))") == str(LIMITS.disk_bytes - MIB)
    finally:
        copy.close()


def test_a_clean_sandbox_that_died_idle_is_started_again(sealed: Sandbox) -> None:
    sealed._destroy()  # type: ignore[attr-defined]  # as an operator or the engine might
    assert sealed._channel.hung_up(10)  # type: ignore[attr-defined]
    assert said(sealed, "print('back')") == "back"


def test_interrupting_an_exec_does_not_mix_up_replies(sealed: Sandbox) -> None:
    """A KeyboardInterrupt in the middle leaves no reply behind for the next request."""
    from trieline.envs.errors import SandboxError

    class InterruptError(BaseException):
        pass

    channel = sealed._channel  # type: ignore[attr-defined]
    real = channel.receive

    def interrupted(count: int, deadline: float) -> bytes:
        raise InterruptError

    channel.receive = interrupted
    with pytest.raises(InterruptError):
        run_python(sealed, "print('first')")
    channel.receive = real
    with pytest.raises(SandboxError, match="not running"):
        run_python(sealed, "print('second')")
    sealed.reset()
    assert said(sealed, "print('third')") == "third"


def test_sandboxes_do_not_see_each_other(sealed: Sandbox) -> None:
    snapshot = sealed.snapshot()
    other = snapshot.start()
    try:
        done: list[str] = []
        thread = threading.Thread(
            target=lambda: done.append(said(other, "import time; time.sleep(0.5); print('unharmed')"))
        )
        thread.start()
        run_python(sealed, "import os, signal\nos.kill(-1, signal.SIGKILL)")
        code = "import os; print(sum(p.isdigit() for p in os.listdir('/proc')))"
        assert said(sealed, code) == "2"
        thread.join(30)
        assert done == ["unharmed"]
    finally:
        other.close()
