"""Who owns a sandbox: this process, in words that another process can check, so that orphans can be told."""

import os
import socket
from functools import cache
from pathlib import Path


@cache
def _machine() -> str:
    return socket.gethostname().replace("/", "-")


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def _namespace() -> str:
    """Where a pid counts: containers have their own."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _start_time(pid: int) -> str | None:
    """In clock ticks since boot, or None if there is no such process. Tells a reused pid from the old one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def this_process() -> str:
    """`host/boot id/pid namespace/pid/start time`."""
    pid = os.getpid()
    return f"{_machine()}/{_boot()}/{_namespace()}/{pid}/{_start_time(pid)}"


def is_gone(owner: str) -> bool:
    """True only if the owner ran on this machine and certainly no longer does."""
    parts = owner.split("/")
    if len(parts) != 5 or not parts[3].isdigit():
        return False
    machine, boot, namespace, pid, start_time = parts
    if machine != _machine():
        return False
    if boot != _boot():
        return True
    return namespace == _namespace() and _start_time(int(pid)) != start_time
