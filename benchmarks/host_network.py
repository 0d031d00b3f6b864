"""Machines of one network, all on this one: each a network namespace with a cable to a switch, and own files.

Needs root and `ip`. Programs of a host have their own addresses, home, temporary files and shared memory. A
host is known to the others by its name; its address is 10.77.0.N, and fd77::N.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = Path("/etc/netns")
"""`ip netns exec` lays the files of a namespace's folder here over those of /etc."""
# A private /dev/shm: what one host writes there no other sees.
IN_HOST = 'mount -t tmpfs tmpfs /dev/shm && cd "$HOME" && exec "$@"'


def reason_against_hosts() -> str | None:
    """Why there can be no such network here; None: there can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip and unshare (Debian: iproute2, util-linux)"
    name = f"trieline-{uuid.uuid4().hex[:8]}"
    made = _run("ip", "netns", "add", name, check=False)
    if made.returncode != 0:
        return made.stderr.strip() or "ip netns add failed"
    bridge = _run("ip", "-n", name, "link", "add", "switch", "type", "bridge", check=False)
    _run("ip", "netns", "del", name, check=False)
    return None if bridge.returncode == 0 else bridge.stderr.strip()


class HostNetwork:
    """Hosts by name. `close` ends all that runs on them."""

    def __init__(self, scratch: Path, hosts: Sequence[str]) -> None:
        self._mark = f"trieline-{uuid.uuid4().hex[:8]}"
        self._scratch = scratch
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {host: [] for host in hosts}
        try:
            self._add_namespace("switch")
            _run("ip", "-n", self._namespace("switch"), "link", "add", "switch", "type", "bridge")
            _run("ip", "-n", self._namespace("switch"), "link", "set", "switch", "up")
            names = "".join(
                f"10.77.0.{number} {host}\nfd77::{number} {host}-6\n" for number, host in enumerate(hosts, 1)
            )
            for number, host in enumerate(hosts, 1):
                self._plug_in(host, number, f"127.0.0.1 localhost\n{names}")
        except BaseException:
            self.close()
            raise

    def home(self, host: str) -> Path:
        """Where the programs of a host run."""
        return self._scratch / host

    def start(
        self, host: str, *command: str, log: str, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a program of Python (its arguments) on a host; what it says goes to `log` in its home."""
        with (self.home(host) / log).open("ab") as output:
            process = subprocess.Popen(
                [*self._inside(host), sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(host, environment or {}),
                start_new_session=True,
            )
        self._processes[host].append(process)
        return process

    def run(
        self, host: str, *command: str, given: str = "", environment: Mapping[str, str] | None = None
    ) -> str:
        """Run a program of Python on a host to its end; what it prints."""
        ran = subprocess.run(
            [*self._inside(host), sys.executable, *command],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment(host, environment or {}),
        )
        assert ran.returncode == 0, f"{command} on {host}: {ran.stderr}"
        return ran.stdout

    def cut_off(self, host: str) -> None:
        """Pull a host's cable out of the switch: nobody is told."""
        _run("ip", "-n", self._namespace("switch"), "link", "set", host, "nomaster")

    def plug_in_again(self, host: str) -> None:
        """Put it back."""
        _run("ip", "-n", self._namespace("switch"), "link", "set", host, "master", "switch")

    def power_off(self, host: str) -> None:
        """All its programs are gone at once, and no word of that leaves it."""
        self.cut_off(host)
        for process in self._processes[host]:
            _kill(process)

    def close(self) -> None:
        """Idempotent."""
        for processes in self._processes.values():
            for process in processes:
                _kill(process)
        for name in ("switch", *self._processes):
            _run("ip", "netns", "del", self._namespace(name), check=False)
            shutil.rmtree(NAMES / self._namespace(name), ignore_errors=True)
        with contextlib.suppress(OSError):
            NAMES.rmdir()

    def _plug_in(self, host: str, number: int, names: str) -> None:
        switch, namespace = self._namespace("switch"), self._add_namespace(host)
        for folder in (self.home(host) / "tmp", NAMES / namespace):
            folder.mkdir(parents=True)
        (NAMES / namespace / "hosts").write_text(names)
        cable = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "-n", switch, "link", "add", host, *cable)
        _run("ip", "-n", switch, "link", "set", host, "master", "switch", "up")
        for device in ("lo", "eth0"):
            _run("ip", "-n", namespace, "link", "set", device, "up")
        _run("ip", "-n", namespace, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        _run("ip", "-n", namespace, "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")

    def _add_namespace(self, name: str) -> str:
        _run("ip", "netns", "add", self._namespace(name))
        return self._namespace(name)

    def _namespace(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def _inside(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(host), "unshare", "--mount", "sh", "-c", IN_HOST, host]

    def _environment(self, host: str, more: Mapping[str, str]) -> dict[str, str]:
        home = self.home(host)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": os.pathsep.join(paths),
            **more,
        }


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # It leads its own group, so its workers go with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 or not check, f"{' '.join(command)}: {ran.stderr}"
    return ran
