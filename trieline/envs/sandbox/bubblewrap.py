"""Sandboxes without a daemon: bubblewrap, which needs nothing but unprivileged user namespaces.

There is no control group, so the bounds are made of other things than Docker's, and are looser:
- memory: RLIMIT_DATA of `memory_bytes` for each process, the keeper included (what a request brings has to
  fit in it), and the keeper adds up the programs every 50 ms and ends one that is over. Between two looks,
  `pids` processes can in theory hold `pids * memory_bytes`. Memory that is in no process is refused: see the
  last doors of `inside.syscall_filter`, and ZEROS. Of what the kernel holds for programs, page tables are
  added as they are, mappings and sockets with the most that one can take (for TCP that is 36 MiB: without a
  checkout there are Unix sockets only). Pipes and epolls are bounded by OPEN_FILES a process: in the worst
  case 64 processes hold 135 and 56 MiB by them, beside `memory_bytes`;
- the writable folder: a tmpfs of `disk_bytes`, on top of `memory_bytes`. Over a checkout, a tmpfs of that
  size holds what is changed, /tmp and /dev/shm;
- pids: RLIMIT_NPROC, which Linux counts per user namespace, that is per sandbox, from 5.14 on; before, only
  the keeper looks at their number, when it looks at memory;
- `cpus` is not enforced. The wall-clock limit is, by the end of the whole pid namespace.
"""

import logging
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from queue import SimpleQueue

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import bundle, host_view
from trieline.envs.sandbox.base import SandboxLimits, SandboxSpec, refuse
from trieline.envs.sandbox.channel import Channel, PipeChannel
from trieline.envs.sandbox.exit_cleanup import close_at_exit, forget
from trieline.envs.sandbox.kept import KeptSandbox

logger = logging.getLogger(__name__)

INSTALL = "apt-get install -y bubblewrap"
END_SECONDS = 10.0
GIVE_SECONDS = 600.0
HOST_UID = 2_147_000_000
"""What root turns into before it starts bubblewrap: a user that owns nothing, beyond the ranges that are
handed out. Programs then own none of root's files, and RLIMIT_NPROC, which spares root, binds them."""
SHOWN_AT = "/mnt"
"""Where root's helper shows a folder to HOST_UID, in a mount namespace that nobody else sees."""
OPEN_FILES = 128
"""For each process. Half of what Docker gives: without a control group nobody counts what the kernel holds
for pipes, and for each pair of an epoll and what it waits for."""
FOR_CHECKOUT = ("CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SETPCAP")
"""What the keeper has in its user namespace until it has laid an overlay over the checkout, and then no
more."""
LINUX_BUFFERS = {"core/wmem_default": 212_992, "core/wmem_max": 4 << 20, "core/rmem_max": 4 << 20}
LINUX_BUFFERS |= {"ipv4/tcp_rmem": 32 << 20, "ipv4/tcp_wmem": 4 << 20}
"""Linux's own settings below /proc/sys/net, in bytes; of a triple, the largest."""
ZEROS = "/dev/full"
"""Shown as /dev/zero too. It reads the same and can't be mapped: shared mappings of the real one are shared
anonymous memory under another name, that no filter of system calls can tell from a file."""
NPROC_PER_NAMESPACE_SINCE = (5, 14)


def _buffer(name: str) -> int:
    try:
        return int(Path("/proc/sys/net", name).read_text().split()[-1])
    except (OSError, ValueError, IndexError):
        return LINUX_BUFFERS[name]


def _socket_bytes() -> int:
    """What the kernel can hold for one socket: a full buffer, which programs can't enlarge, and a message."""
    return _buffer("core/wmem_default") * 3 // 2


def _enlarged_socket_bytes() -> int:
    """The same where programs can: Linux doubles what they ask for."""
    return 2 * max(_buffer("core/wmem_max"), _buffer("core/rmem_max")) * 3 // 2


def _tcp_bytes() -> int:
    return _buffer("ipv4/tcp_rmem") + _buffer("ipv4/tcp_wmem")


@cache
def _kernel() -> tuple[int, int]:
    major, minor = re.match(r"(\d+)\.(\d+)", platform.release()).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


class Spawner:
    """Starts processes in one thread that lives as long as this process.

    --die-with-parent means the *thread* that started bubblewrap, and those who ask for a sandbox come and go.
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[
            tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]
        ]
        self._orders = SimpleQueue()
        threading.Thread(target=self._run, name="bubblewrap-spawner", daemon=True).start()

    def _run(self) -> None:
        while True:
            future, start = self._orders.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001  # it belongs to the one who asked
                future.set_exception(error)

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]], deadline: float) -> subprocess.Popen[bytes]:
        """What `start` gives. If the caller is interrupted meanwhile, the process is killed when it comes."""
        future: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((future, start))
        try:
            return future.result(timeout=max(0.0, deadline - time.monotonic()))
        except BaseException:
            future.add_done_callback(_kill_late)
            raise


def _kill_late(future: Future[subprocess.Popen[bytes]]) -> None:
    if future.exception() is None:
        future.result().kill()


@cache
def _spawner(_pid: int) -> Spawner:
    return Spawner()


def as_unprivileged_user(folders: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """What to put before a command so that it runs as HOST_UID, and where it finds each of `folders`.

    HOST_UID could not walk to a folder in root's home, so root opens the way before it lets go.
    """
    shown = [Path(SHOWN_AT)]
    steps = []
    if len(folders) > 1:
        shown = [Path(SHOWN_AT, str(number)) for number in range(len(folders))]
        steps = [f"mount -t tmpfs -o mode=0755 shown {SHOWN_AT}", f"mkdir {' '.join(map(str, shown))}"]
    steps += [f'mount --bind "$1" {place} && shift' for place in shown]
    steps += [f'exec setpriv --reuid {HOST_UID} --regid {HOST_UID} --clear-groups --no-new-privs -- "$@"']
    return ["unshare", "--mount", "sh", "-c", " && ".join(steps), "sh", *map(str, folders)], shown


def give(checkout: Path) -> None:
    """Make a folder one that a sandbox can have as its checkout: for root, it has to belong to HOST_UID.

    Elsewhere its files are the user's already. SandboxError if they can't be given.
    """
    if os.geteuid() != 0:
        return
    done = subprocess.run(
        ["chown", "-R", "-h", f"{HOST_UID}:{HOST_UID}", "--", str(checkout)],
        capture_output=True,
        check=False,
        timeout=GIVE_SECONDS,
    )
    if done.returncode != 0:
        msg = f"could not give {checkout} to user {HOST_UID}: {done.stderr.decode(errors='replace')[-300:]}"
        raise SandboxError(msg)


def command(
    limits: SandboxLimits,
    spec: SandboxSpec,
    keeper: Sequence[str],
    source: Path | None = None,
    checkout: Path | None = None,
) -> list[str]:
    """The bubblewrap command line. The order matters: what is mounted later lies on top.

    `source`: see `host_view.arguments`. `checkout`: where bubblewrap finds that of the spec.
    """
    user = str(bundle.user(spec))
    arguments = ["bwrap", "--unshare-all", "--unshare-user", "--uid", user, "--gid", user]
    arguments += ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
    arguments += ["--clearenv", "--setenv", "PATH", bundle.environment(spec)["PATH"], "--cap-drop", "ALL"]
    arguments += host_view.arguments(Path(spec.folder) if spec.folder else None, source)
    workdir = str(bundle.workdir(spec))
    arguments += ["--proc", "/proc", "--dev", "/dev", "--dev-bind", ZEROS, "/dev/zero"]
    if checkout is None:
        arguments += ["--perms", "0700", "--size", str(limits.disk_bytes), "--tmpfs", workdir]
    else:
        arguments += ["--ro-bind", str(checkout), workdir, "--dir", "/tmp"]
        arguments += [word for name in FOR_CHECKOUT for word in ("--cap-add", name)]
    arguments += ["--chdir", workdir]
    # Both are tmpfs without a bound that the sandboxed user owns.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*arguments, "--", *keeper]


class BubblewrapSandbox(KeptSandbox):
    """A set of namespaces whose process 1 is the keeper."""

    def __init__(self, limits: SandboxLimits, spec: SandboxSpec | None = None) -> None:
        super().__init__(limits, spec)
        refuse(
            self.spec,
            "bubblewrap",
            image="it has no engine for images; give a prepared root as `folder`",
            writable_root="it can neither bound nor throw away what is written there; give a `checkout`",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"bubblewrap sandbox {self._process.pid if self._process else '(not started)'}"

    def _another(self) -> "BubblewrapSandbox":
        return BubblewrapSandbox(self.limits, self.spec)

    def _keeper(self) -> Sequence[str]:
        limits, spec = self.limits, self.spec
        rlimits = {
            "RLIMIT_DATA": limits.memory_bytes,
            "RLIMIT_NOFILE": limits.open_files or OPEN_FILES,
        }
        if _kernel() >= NPROC_PER_NAMESPACE_SINCE:
            rlimits["RLIMIT_NPROC"] = limits.pids + 1
        python, path = "python3", bundle.PATH
        if spec.folder is None:
            interpreter, prefix = host_view.interpreter()
            python = str(interpreter)
            path = path if prefix is None else f"{interpreter.parent}:{path}"
        settings = bundle.settings(
            limits,
            spec,
            rlimits=rlimits,
            watch_memory_bytes=limits.memory_bytes,
            socket_bytes=_enlarged_socket_bytes() if spec.is_workspace else _socket_bytes(),
            tcp_bytes=_tcp_bytes() if spec.is_workspace else 0,
            path=path,
        )
        return bundle.keeper_argv(python, settings)

    def _launch(self, deadline: float) -> Channel:
        close_at_exit(self)
        process = self._process = _spawner(os.getpid()).spawn(self._spawn, deadline)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        channel = PipeChannel(
            *(os.dup(pipe.fileno()) for pipe in (process.stdin, process.stdout, process.stderr))
        )
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        return channel

    def _spawn(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        system = Path(spec.folder) if spec.folder else host_view.interpreter()[1]
        checkout = self._checkout()
        hidden = [folder for folder in (system, checkout) if folder]
        root = os.geteuid() == 0
        user = HOST_UID if root and not hidden else None
        before: list[str] = []
        source = None
        try:
            if root and hidden:
                before, shown = as_unprivileged_user(hidden)
                source = shown[0] if system else None
                checkout = shown[-1] if checkout else None
            argv = before + command(self.limits, spec, self._keeper(), source, checkout)
            return subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                bufsize=0,
            )
        except OSError as error:
            msg = f"could not start bubblewrap: {error}"
            raise SandboxError(msg) from error

    def _checkout(self) -> Path | None:
        """That of the spec, if its files can be those of a sandbox's user."""
        if self.spec.checkout is None:
            return None
        checkout, user = Path(self.spec.checkout), os.geteuid() or HOST_UID
        try:
            owner = checkout.stat().st_uid
        except OSError as error:
            msg = f"no checkout: {error}"
            raise SandboxError(msg) from error
        if not checkout.is_dir() or owner != user:
            msg = (
                f"expected as checkout a folder of user {user}, got {checkout} of {owner}; "
                f"chown -R {user}:{user} makes it that"
            )
            raise SandboxError(msg)
        return checkout

    def _destroy(self) -> None:
        forget(self)
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # the namespace goes with it: --die-with-parent
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning(
                "bubblewrap (pid %d) did not end within %.0f s of SIGKILL", process.pid, END_SECONDS
            )


def reason_against() -> str | None:
    """Why this backend can't be used, or None if it can. Tried out: a kernel may refuse user namespaces."""
    if shutil.which("bwrap") is None:
        return f"bubblewrap is not installed ({INSTALL})"
    try:
        with BubblewrapSandbox(SandboxLimits()) as sandbox:
            done = sandbox.exec(["python3", "-I", "-S", "-c", "print(6 * 7)"])
    except SandboxError as error:
        return f"bubblewrap does not work here: {error}"
    if done.stdout != b"42\n":
        said = done.stderr[-300:]
        return f"bubblewrap does not work here: expected 42, got exit code {done.exit_code}, {said!r}"
    return None
