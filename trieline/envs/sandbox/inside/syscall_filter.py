"""A seccomp filter that the keeper puts on itself, and so on every program it starts.

It closes six doors. The first two matter most under bubblewrap, which brings no filter of its own; under
Docker they come on top of the engine's.
- kernel interfaces that most exploits go through: new namespaces, bpf, io_uring, userfaultfd, keys;
- sockets that network namespaces don't hold in, above all AF_VSOCK, which reaches from a guest to its host;
- memory and scheduling of other processes: the keeper has the uid of the programs, and they must not slow it;
- System V and POSIX message queues and shared memory, which outlive their process and the reset of a sandbox;
- pages that can be held without being mapped, so that no process is charged with them: files in memory alone,
  shared anonymous memory (MADV_DONTNEED unmaps its pages and frees none), pages lent to a pipe;
- where no control group counts what the kernel holds for sockets: all of them but Unix sockets, whose number
  the keeper sees, and larger send buffers for those. One TCP connection can hold 10 MB and more, by sysctls.

Formats: Linux's Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{seccomp,filter,audit}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000

# BPF instruction codes: load a word of seccomp_data, jump on the accumulator, return a constant.
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE = 0, 4
X32_BIT = 0x40000000

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
NEW_NAMESPACE_BITS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

# System call numbers as (x86_64, aarch64); -1 where the architecture has none.
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
REFUSED = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "modify_ldt": (154, -1),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
MMAP = (9, 222)
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
SOCKET_CALLS = {"socket": (41, 198), "socketpair": (53, 199)}
SETSOCKOPT = (54, 208)
SOL_SOCKET, SO_SNDBUF = 1, 7
# Allowed on oneself only: first argument 0.
OWN_ONLY = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
# (which, who): allowed with the constant for "one process", and 0 for oneself.
OWN_PRIORITY = {"setpriority": ((141, 140), 0), "ioprio_set": ((251, 30), 1)}


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, constant)


def _refuse(error: int = errno.EPERM) -> bytes:
    return _instruction(RETURN, RET_ERRNO | error)


def _load_argument(index: int) -> bytes:
    # The low half: it holds all that is looked at of any argument. Both architectures are little endian.
    return _instruction(LOAD, 16 + 8 * index)


def _for_call(number: int, body: list[bytes]) -> list[bytes]:
    """`body` must return; it runs for system call `number` only, with the number still loaded before it."""
    return [_instruction(JUMP_EQUAL, number, 0, len(body)), *body]


def program(machine: str, *, only_unix: bool = False) -> bytes:
    """The filter as BPF instructions. Raises KeyError for an architecture without a table."""
    column, architecture = ARCHITECTURES[machine]
    allow = _instruction(RETURN, RET_ALLOW)
    code = [
        _instruction(LOAD, AT_ARCHITECTURE),
        _instruction(JUMP_EQUAL, architecture, 1, 0),
        _refuse(),
        _instruction(LOAD, AT_NUMBER),
    ]
    if machine == "x86_64":
        code += [_instruction(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), _refuse()]
    for numbers in REFUSED.values():
        if numbers[column] >= 0:
            code += _for_call(numbers[column], [_refuse()])
    # Its flags are behind a pointer, out of a filter's sight; the C library falls back to clone.
    code += _for_call(CLONE3[column], [_refuse(errno.ENOSYS)])
    new_namespace = _instruction(JUMP_ANY_BIT, NEW_NAMESPACE_BITS, 1, 0)
    code += _for_call(CLONE[column], [_load_argument(0), new_namespace, allow, _refuse()])
    anonymous = _instruction(JUMP_ANY_BIT, MAP_ANONYMOUS, 1, 0)
    shared = _instruction(JUMP_ANY_BIT, MAP_SHARED, 1, 0)
    code += _for_call(MMAP[column], [_load_argument(3), anonymous, allow, shared, allow, _refuse()])
    families = [AF_UNIX] if only_unix else [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]
    known = [_instruction(JUMP_EQUAL, family, len(families) - n, 0) for n, family in enumerate(families)]
    for numbers in SOCKET_CALLS.values():
        code += _for_call(numbers[column], [_load_argument(0), *known, _refuse(errno.EAFNOSUPPORT), allow])
    if only_unix:
        level = [_load_argument(1), _instruction(JUMP_EQUAL, SOL_SOCKET, 1, 0), allow]
        # A hint that the kernel may cut as it likes, so it is taken, with success, and comes to nothing.
        option = [_load_argument(2), _instruction(JUMP_EQUAL, SO_SNDBUF, 1, 0), allow, _refuse(0)]
        code += _for_call(SETSOCKOPT[column], level + option)
    own = [_load_argument(0), _instruction(JUMP_EQUAL, 0, 1, 0), _refuse(), allow]
    for numbers in OWN_ONLY.values():
        code += _for_call(numbers[column], own)
    for numbers, one_process in OWN_PRIORITY.values():
        which = [_load_argument(0), _instruction(JUMP_EQUAL, one_process, 1, 0), _refuse()]
        who = [_load_argument(1), _instruction(JUMP_EQUAL, 0, 1, 0), _refuse(), allow]
        code += _for_call(numbers[column], which + who)
    code.append(allow)
    return b"".join(code)


def install(*, only_unix: bool = False) -> None:
    """Filter this process and all that it starts, for good. Raises OSError if the kernel or machine can't.

    `only_unix`: refuse all sockets but Unix sockets, and leave those their buffers as they are.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        msg = f"expected one of the architectures {sorted(ARCHITECTURES)}, got {machine}"
        raise OSError(errno.ENOSYS, msg)
    instructions = program(machine, only_unix=only_unix)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    fprog = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog)):
        if libc.prctl(arguments[0], ctypes.c_ulong(arguments[1]), arguments[2], 0, 0) != 0:
            msg = f"prctl({arguments[0]}): {os.strerror(ctypes.get_errno())}"
            raise OSError(ctypes.get_errno(), msg)
