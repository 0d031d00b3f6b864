"""No program gets more memory than it may, neither in processes nor in what the kernel holds for them."""

import pytest

from tests.envs.sandbox.conftest import LIMITS, MIB, fresh
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.sandbox import Sandbox


def test_many_processes_together_are_bound_in_memory(sealed: Sandbox) -> None:
    code = f"""
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray({LIMITS.memory_bytes // 4})
        for i in range(0, len(held), 4096): held[i] = 1
        time.sleep(60)
time.sleep(1); print("all alive" if not any(os.waitpid(-1, os.WNOHANG)) else "one was ended")
"""
    result = run_python(sealed, code)
    assert result.oom
    assert b"all alive" not in result.stdout


# Memory that is in no process, or that is hard to see in one. Each program takes twice as much as it may.
HIDDEN = {
    "memory files": """
files = [os.memfd_create(str(n)) for n in range(MEMORY // DISK * 2)]
for file in files: os.write(file, b"x" * DISK)
""",
    "shared memory": """
shared = mmap.mmap(-1, 2 * MEMORY)
for start in range(0, 2 * MEMORY, MIB):
    shared[start:start + MIB] = b"x" * MIB
    shared.madvise(mmap.MADV_DONTNEED, start, MIB)
""",
    "shared zeros": """
shared = mmap.mmap(os.open("/dev/zero", os.O_RDWR), 2 * MEMORY)
for start in range(0, 2 * MEMORY, MIB):
    shared[start:start + MIB] = b"x" * MIB
    shared.madvise(mmap.MADV_DONTNEED, start, MIB)
""",
    "page tables": """
EVERY = mmap.PAGESIZE // 8 * mmap.PAGESIZE  # what one table maps, which is a page itself
size = 2 * MEMORY // mmap.PAGESIZE * EVERY
sparse = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)  # MAP_NORESERVE
sparse.madvise(15)  # MADV_NOHUGEPAGE
for start in range(0, size, EVERY): sparse[start]
""",
    "buffers of sockets": """
for _ in range(2 * MEMORY // (100 * 200_000) + 1):
    if os.fork(): continue
    for _ in range(50):
        for end in pairs.append(socket.socketpair()) or pairs[-1]:
            end.setblocking(False)
            try:
                while True: end.send(b"x" * 4096)
            except BlockingIOError: pass
    time.sleep(60)
""",
    "processes that can not be looked into": """
libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
for _ in range(8):
    if os.fork() == 0: hold_a_quarter()
""",
    "processes without their first thread": """
def later(): time.sleep(0.2); hold_a_quarter()
EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
for _ in range(8):
    if os.fork() == 0: threading.Thread(target=later).start(); libc.syscall(EXIT, 0)
""",
}


@pytest.mark.parametrize("code", HIDDEN.values(), ids=HIDDEN)
def test_memory_can_not_be_hidden(sealed: Sandbox, code: str) -> None:
    before = f"""
import ctypes, mmap, os, socket, threading, time
pairs = []
MIB, MEMORY, DISK = {MIB}, {LIMITS.memory_bytes}, {LIMITS.disk_bytes}
libc = ctypes.CDLL(None)
def hold_a_quarter(): held = b"x" * (MEMORY // 4); time.sleep(60)
"""
    after = """
time.sleep(1.2)
ended = False
try: ended = os.waitpid(-1, os.WNOHANG)[0]
except ChildProcessError: pass
print("one was ended" if ended else "all")
"""
    result = run_python(sealed, before + code + after)
    assert result.oom or result.exit_code != 0
    assert b"all" not in result.stdout
    assert not result.timed_out


def test_mappings_count_where_nobody_counts_what_the_kernel_holds_for_them() -> None:
    code = f"""
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
for _ in range(3 * {LIMITS.memory_bytes} // 2 // (64_000 * 256)):
    if os.fork() == 0:
        start = libc.mmap(None, 64_000 * 4096, 0, 0x4022, -1, 0)  # PROT_NONE, private, anonymous, no reserve
        for page in range(0, 64_000, 2): libc.mprotect(start + page * 4096, 4096, 1)
        break
time.sleep(60)
"""
    assert run_python(fresh("bubblewrap"), code).oom


def test_only_unix_sockets_where_nobody_counts_what_the_others_hold() -> None:
    sandbox = fresh("bubblewrap")
    code = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try: socket.socket(family, kind); print(family, kind)
        except OSError: pass
end, _ = socket.socketpair()
before = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 26)
print(end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before)
"""
    assert said(sandbox, code) == "True"


def test_zeros_can_be_read(sealed: Sandbox) -> None:
    assert said(sealed, "print(open('/dev/zero', 'rb').read(1_000_000) == bytes(1_000_000))") == "True"


def test_memory_that_is_shared_counts_once(sealed: Sandbox) -> None:
    code = """
import os, time
held = b"x" * (80 << 20)
for _ in range(4):
    if os.fork() == 0: time.sleep(60)
time.sleep(0.3); print("all")
"""
    assert said(sealed, code) == "all"
