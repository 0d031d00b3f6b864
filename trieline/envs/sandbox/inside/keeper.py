"""The keeper: the one trusted process of a sandbox. It starts programs and ends all that they leave behind.

It is process 1 of its own pid namespace and, like the programs, has an unprivileged uid and no capability.
Since the uid is the same, four things keep programs off it:
- signals: from inside its namespace the kernel delivers none to process 1 that it has no handler for, not
  even SIGKILL;
- it is not "dumpable", so ptrace and the links and memory under /proc/1 are out of reach;
- the syscall filter refuses limits and scheduling of other processes;
- requests and replies run over pipes of its own, which no program inherits, and results are what it saw
  itself: pipes that it made, exit codes from the kernel. Nothing that a program prints is ever parsed.
It has the bounds of a program itself, for good, so that programs start with them and can't raise them.
What it sends is bounded, and when its owner hangs up it exits, which ends every process in the namespace.
"""

# ruff: noqa: PTH123, PTH208
# the keeper starts faster without pathlib
from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Optional

from trieline.envs.sandbox.inside import checkout, files, frames, programs, syscall_filter

PR_SET_DUMPABLE = 4
REQUESTS, REPLIES = 0, 1
KILL_SECONDS = 5.0
CHUNK = 1 << 20
# Fields of /proc/*/smaps_rollup, and of /proc/*/status, in kB.
SHARES = (b"Pss:", b"SwapPss:")
PAGES = (b"VmRSS:", b"VmSwap:")
UNSHARED = (b"VmPTE:", b"HugetlbPages:")
ADDRESS_SPACE = b"VmSize:"
MAPPING_BYTES = 256
"""What the kernel holds for one mapping (struct vm_area_struct, its lock, its place in the tree), at most."""


def harden(*, only_unix_sockets: bool) -> None:
    """Put this process out of reach of those that it will start."""
    if os.getpid() != 1:
        # kill_everything() signals all processes it may: a disaster anywhere but in a namespace of its own.
        msg = f"expected to be process 1 of a pid namespace, got {os.getpid()}"
        raise RuntimeError(msg)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a handler the kernel drops it
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        msg = f"prctl(PR_SET_DUMPABLE): {os.strerror(ctypes.get_errno())}"
        raise OSError(msg)
    syscall_filter.install(only_unix=only_unix_sockets)
    for name in ("RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO"):
        resource.setrlimit(getattr(resource, name, resource.RLIMIT_CORE), (0, 0))


def others() -> list[int]:
    """Processes in the sandbox besides this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def send_kill(_pid: int = 0) -> None:
    """SIGKILL to all other processes at once: no fork escapes it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def kill_everything() -> None:
    """End and reap all other processes."""
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        send_kill()
        while _reap():
            pass
        if not others():
            return
        if time.monotonic() > deadline:
            msg = f"processes {others()[:8]} survived SIGKILL for {KILL_SECONDS} s"
            raise TimeoutError(msg)
        time.sleep(0.0005)


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


class OomScore:
    """How soon the kernel ends this process, and what it starts, if memory runs out: see proc(5).

    To be made before `harden`, after which these files belong to root.
    """

    def __init__(self) -> None:
        self._file = -1
        with contextlib.suppress(OSError):  # a courtesy; the bounds hold without it
            self._file = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = os.read(self._file, 16)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Programs that are started meanwhile are to be ended first, and not the keeper."""
        self._set(b"1000")
        try:
            yield
        finally:
            self._set(self._own)

    def _set(self, score: bytes) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, score, 0)


def cgroup_oom_kills() -> int:
    """Processes of this sandbox that the kernel ended for memory, by its control group (version 2 or 1)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as counters:
                return int(dict(line.split() for line in counters)["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return 0


def socket_bytes(each: int, tcp: int) -> int:
    """What the kernel can hold for the sockets of this network namespace, given that for one and one of TCP.

    Those in flight or not yet accepted are among them.
    """
    total = 0
    for path in ("/proc/net/sockstat", "/proc/net/sockstat6") if tcp else ("/proc/net/sockstat",):
        with open(path) as counters:
            for line in counters:  # "sockets: used 8", "TCP: inuse 3 orphan 0 ...", "TCP6: inuse 1"
                words = line.split()
                total += int(words[2]) * {"sockets:": each, "TCP:": tcp, "TCP6:": tcp}.get(words[0], 0)
    return total


def held_bytes(share: bool) -> int:
    """Of all programs: pages in memory or swapped out, and what the kernel holds for their address spaces.

    `share` divides shared pages among their users and counts mappings: exact, and ten times the work.
    """
    total = 0
    for pid in others():
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue  # it has just ended
        # Threads share their memory. One that has ended shows none, and the first can end before the others.
        held = (_held_by(f"/proc/{pid}/task/{task}", share) for task in tasks)
        total += next(filter(None, held), 0)
    return total


def _held_by(task: str, share: bool) -> int:
    status = _kilobytes(f"{task}/status", (*PAGES, *UNSHARED, ADDRESS_SPACE))
    rollup = _kilobytes(f"{task}/smaps_rollup", SHARES) if share else {}
    # A program can make all but `status` unreadable, which must not hide it: then its pages count in full,
    # and as many mappings as there may be, one a page.
    pages = rollup or {name: status.get(name, 0) for name in PAGES}
    held = sum(pages.values()) + sum(status.get(name, 0) for name in UNSHARED)
    mappings = _mappings(task) if share else 0
    mappings = mappings or status.get(ADDRESS_SPACE, 0) * 1024 // resource.getpagesize()
    return held * 1024 + mappings * MAPPING_BYTES


def _mappings(task: str) -> int:
    try:
        with open(f"{task}/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _kilobytes(path: str, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Fields by name; none if the file can't be read. Not all lines are text: programs name themselves."""
    try:
        with open(path, "rb") as lines:
            return {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith(names)}
    except OSError:
        return {}


def _read_exactly(count: int) -> bytes:
    """MemoryError before anything is read."""
    data = bytearray(count)
    left = memoryview(data)
    while left:
        taken = os.readv(REQUESTS, [left[:CHUNK]])
        if not taken:
            raise EOFError
        left = left[taken:]
    return data  # type: ignore[return-value]  # whoever takes it takes both, and a copy could be a gigabyte


class Body(io.RawIOBase):
    """The body of the request that is being answered, as a stream."""

    def __init__(self, length: int) -> None:
        self.left = length

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        data = _read_exactly(size)
        self.left -= size
        return data


class Replies(io.RawIOBase):
    """The stream of replies, for an archive to be written to."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # the base class takes any buffer
        _send(data)
        return len(data)


Reply = tuple[Optional[dict[str, Any]], bytes]  # noqa: UP045  # `|` of types is new in Python 3.10
"""Header and body; no header if the reply was sent already."""


class Keeper:
    """Answers requests, one at a time. `settings` come from the owner, see `bundle.Settings`."""

    def __init__(
        self,
        settings: dict[str, Any],
        layer: Optional[checkout.Layer],  # noqa: UP045  # as above
        score: OomScore,
    ) -> None:
        self.settings = settings
        self.score = score
        self.workdir: str = settings["workdir"]
        self.files = layer or files.Folder(self.workdir)
        self.clean_usage = self.usage()
        self.clean_marks = files.marks(self.workdir)

    def usage(self) -> tuple[int, int]:
        """Blocks and files taken in the writable folder, deleted files that are still open included."""
        stat = os.statvfs(self.workdir)
        return stat.f_blocks - stat.f_bfree, stat.f_files - stat.f_ffree

    def over_memory(self) -> bool:
        """For sandboxes without a control group: do the programs hold more than they may, of anything?"""
        limit: int = self.settings["watch_memory_bytes"]
        if limit == 0:
            return False
        if self.usage()[1] > self.settings["max_files"] or len(others()) > self.settings["max_pids"]:
            return True
        limit -= socket_bytes(self.settings["socket_bytes"], self.settings["tcp_bytes"])
        return held_bytes(share=False) > limit and held_bytes(share=True) > limit

    def exec(self, header: dict[str, Any], body: Body) -> Reply:
        kills = cgroup_oom_kills()
        order = programs.Order(
            argv=header["argv"],
            stdin=body.read(body.left),
            workdir=self.workdir,
            environment={**self.settings["environment"], **header["environment"]},
            wall_seconds=header["wall_seconds"],
            output_bytes=self.settings["output_bytes"],
            tail_bytes=self.settings["tail_bytes"],
            rlimits={},  # those of this process
        )
        outcome = programs.run(
            order,
            kill_all=send_kill,
            reap_all=kill_everything,
            starting=self.score.raised,
            over_memory=self.over_memory,
            owner_fd=REQUESTS,
        )
        reply = {
            "exit_code": outcome.exit_code,
            "stdout_bytes": len(outcome.stdout),
            "timed_out": outcome.timed_out,
            "oom": outcome.oom or cgroup_oom_kills() > kills,
            "left_out": [outcome.stdout_left_out, outcome.stderr_left_out],
            "seconds": outcome.seconds,
        }
        return reply, outcome.stdout + outcome.stderr

    def read(self, header: dict[str, Any], _body: Body) -> Reply:
        return {}, files.read(self.workdir, header["path"], header["max_bytes"])

    def write(self, header: dict[str, Any], body: Body) -> Reply:
        files.write(self.workdir, header["path"], body.read(body.left))
        return {}, b""

    def archive(self, header: dict[str, Any], _body: Body) -> Reply:
        """Sent as it is made: an archive in memory would count against the programs' limit."""
        size = self.files.archive_size(header["max_bytes"])
        _send(frames.pack({}, size))
        self.files.archive(Replies())
        return None, b""

    def get(self, header: dict[str, Any], _body: Body) -> Reply:
        """As `archive`, of one folder and for others than this sandbox."""
        with files.packed(self.workdir, header["path"]) as folder:
            size = folder.archive_size(header["max_bytes"], hard_links=False)
            _send(frames.pack({}, size))
            folder.archive(Replies(), hard_links=False)
        return None, b""

    def put(self, header: dict[str, Any], body: Body) -> Reply:
        files.unpack(self.workdir, header["path"], body)
        return {}, b""

    def restore(self, _header: dict[str, Any], body: Body) -> Reply:
        self.files.restore(body)
        return {}, b""

    def reset(self, _header: dict[str, Any], _body: Body) -> Reply:
        """Back to the start, or a reply that says what is left."""
        kill_everything()
        files.clean(self.workdir, self.clean_marks)
        marks, usage = files.marks(self.workdir), self.usage()
        left = {"files": os.listdir(self.workdir)[:8], "processes": others()[:8]}
        clean = not any(left.values()) and usage == self.clean_usage and marks == self.clean_marks
        return {"clean": clean, "left": {**left, "usage": usage, "marks": repr(marks)[:200]}}, b""

    def answer(self, header: dict[str, Any], body: Body) -> None:
        """Act on one request and send the reply."""
        act = {
            "exec": self.exec,
            "read": self.read,
            "write": self.write,
            "get": self.get,
            "put": self.put,
            "archive": self.archive,
            "restore": self.restore,
            "reset": self.reset,
        }[header["op"]]
        data = b""
        try:
            reply, data = act(header, body)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            reply = {"failed": str(error)}
        except MemoryError:
            reply = {"failed": "its memory has no room for the bytes of this request"}
        except OSError as error:
            reply = {"errno": error.errno or 0, "message": error.strerror or str(error)}
        while body.read(CHUNK):
            pass  # what a failed request left of its body is not the next request
        if reply is not None:
            _send(frames.pack(reply, len(data)))
            _send(data)


def _send(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(REPLIES, view) :]


def main(settings: dict[str, Any]) -> None:
    """Say hello, then answer requests until the owner hangs up."""
    layer = None
    if settings["checkout"]:
        layer = checkout.lay_over(settings["workdir"], settings["disk_bytes"], settings["max_files"])
    score = OomScore()
    harden(only_unix_sockets=settings["watch_memory_bytes"] > 0 and not settings["tcp_bytes"])
    programs.limit(settings["rlimits"])
    keeper = Keeper(settings, layer, score)
    _send(frames.pack({"hello": os.getpid(), "uid": os.getuid(), "python": sys.version.split()[0]}))
    try:
        while True:
            header, length = frames.unpack(_read_exactly, frames.MAX_BODY)
            keeper.answer(header, Body(length))
    except (EOFError, BrokenPipeError, programs.OwnerGoneError):
        os._exit(0)  # ends every process of the namespace


def run_from_command_line() -> None:
    """`bundle.keeper_argv` starts the keeper here, with the settings as the last argument."""
    main(json.loads(sys.argv[-1]))
