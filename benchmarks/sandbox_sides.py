"""The same work in our sandboxes, by Docker Engine's own means, and by SWE-ReX: the sides of `sandbox.py`.

Every side is asked for the same things, and answers with times:

* `true`, `program`: one command, without and with an interpreter to start; `line`: a line for bash;
* `clean`: a small sandbox that nobody has used, and its end. From our pool that is a reset of one in which a
  program has left files and a process, which the others do by a new container;
* `workspace`: a clean workspace on a repository, and its end; `fork`: an independent copy of one in which
  files were changed, and its end; `copy`: the same by copying all files of the repository.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from trieline.envs.sandbox import (
    WORKSPACE,
    Sandbox,
    SandboxLimits,
    SandboxPool,
    SandboxSpec,
    fork,
    open_sandbox,
)
from trieline.envs.sandbox.backends import Backend

PROGRAM = ["python3", "-I", "-S", "-c", "print(6 * 7)"]
LINE = ["bash", "-c", "echo 42"]
CHANGE = (
    "for n in 1 2 3 4 5; do echo x >> package_$n/module_$n.py; done; rm -r package_9; mkdir new; date > new/a"
)
DIRTY = "for n in 1 2 3; do mkdir d$n; echo x > d$n/f; done; sleep 60 &"
IMAGE = "trieline/python:1"
IDLE = ["sleep", "infinity"]
"""What a container of the engine's own does."""
GET_SWE_REX = "python3.11 -m venv rex && rex/bin/pip install swe-rex aiohttp, then --swe-rex rex/bin/python"
SWE_REX_SECONDS = 120.0
"""For SWE-ReX to answer one request."""


class Side(Protocol):
    """Who does the work."""

    name: str

    def times(self, what: str, count: int) -> list[float] | None:
        """Milliseconds, `count` of them. None: it has nothing of the kind."""

    def close(self) -> None: ...


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e3


class LocalSide:
    """A side whose work is done by methods of this process, one for each thing."""

    name = ""

    def times(self, what: str, count: int) -> list[float] | None:
        act: Callable[[], float] | None = getattr(self, what, None)
        return None if act is None else [act() for _ in range(count)]


class OurSide(LocalSide):
    """Sandboxes of one backend, with all limits."""

    def __init__(self, backend: Backend, repository: SandboxSpec) -> None:
        self.name = f"trieline, {backend}"
        self._backend, self._repository = backend, repository
        self._pool = SandboxPool(backend, SandboxLimits(), size=1)
        self._sandbox = open_sandbox(backend, SandboxLimits())
        self._workspace = open_sandbox(backend, WORKSPACE, repository)
        self._workspace.exec(["bash", "-c", CHANGE])
        self._pool.warm()

    def true(self) -> float:
        return self._exec(["true"], b"")

    def program(self) -> float:
        return self._exec(PROGRAM, b"42\n")

    def line(self) -> float:
        return self._exec(LINE, b"42\n")

    def _exec(self, command: list[str], expected: bytes) -> float:
        started = time.perf_counter()
        result = self._sandbox.exec(command)
        taken = (time.perf_counter() - started) * 1e3
        assert (result.exit_code, result.stdout) == (0, expected), result
        return taken

    def clean(self) -> float:
        lent: list[Sandbox] = []
        taken = timed(lambda: lent.append(self._pool.acquire()))
        assert lent[0].exec(["sh", "-c", f"ls; {DIRTY}"]).stdout == b""
        return taken + timed(lambda: self._pool.release(lent[0]))

    def workspace(self) -> float:
        return timed(lambda: open_sandbox(self._backend, WORKSPACE, self._repository).close())

    def fork(self) -> float:
        return timed(lambda: fork(self._workspace).close())

    def close(self) -> None:
        for part in (self._sandbox, self._workspace, self._pool):
            part.close()


class EngineApi(LocalSide):
    """Docker Engine by its API, over its socket."""

    def __init__(self, repository: str) -> None:
        from trieline.envs.sandbox import docker

        self.name = "engine, API"
        self._engine = docker.engine()
        self._repository = repository
        self._container = self._start(IMAGE)
        self._changed = self._start(repository)
        self._exec(self._changed, ["bash", "-c", f"cd /testbed; {CHANGE}"], b"")

    def _start(self, image: str) -> str:
        from trieline.envs.sandbox import docker, owner

        name = f"trieline-benchmark-{uuid.uuid4().hex}"
        labels = {docker.OWNER_LABEL: owner.this_process()}  # swept if this process is killed
        self._engine.api.create_container(
            image, IDLE, name=name, network_disabled=True, user="0", entrypoint=[], labels=labels
        )
        self._engine.api.start(name)
        return name

    def _exec(self, container: str, command: list[str], expected: bytes) -> None:
        api = self._engine.api
        made = api.exec_create(container, command)["Id"]
        assert api.exec_start(made) == expected
        assert api.exec_inspect(made)["ExitCode"] == 0

    def true(self) -> float:
        return timed(lambda: self._exec(self._container, ["true"], b""))

    def program(self) -> float:
        return timed(lambda: self._exec(self._container, PROGRAM, b"42\n"))

    def line(self) -> float:
        return timed(lambda: self._exec(self._container, LINE, b"42\n"))

    def clean(self) -> float:
        return timed(lambda: self._engine.remove(self._start(IMAGE)))

    def workspace(self) -> float:
        return timed(lambda: self._engine.remove(self._start(self._repository)))

    def fork(self) -> float:
        def act() -> None:
            image = f"trieline/benchmark-fork:{uuid.uuid4().hex}"
            self._engine.api.commit(self._changed, *image.split(":"))
            self._engine.remove(self._start(image))
            self._engine.remove_image(image)

        return timed(act)

    def copy(self) -> float:
        def act() -> None:
            name = self._start(self._repository)
            with tempfile.TemporaryFile() as archive:
                for part in self._engine.api.get_archive(self._changed, "/testbed")[0]:
                    archive.write(part)
                archive.seek(0)
                self._exec(name, ["rm", "-rf", "/testbed"], b"")
                self._engine.api.put_archive(name, "/", archive)
            self._engine.remove(name)

        return timed(act)

    def close(self) -> None:
        for name in (self._container, self._changed):
            self._engine.remove(name)


class EngineCommand(LocalSide):
    """Docker Engine by its command line, as agents' harnesses call it."""

    def __init__(self) -> None:
        self.name = "engine, command line"
        self._container = self._start()

    def _run(self, *words: str) -> str:
        return subprocess.run(
            ["docker", *words], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def _start(self) -> str:
        from trieline.envs.sandbox import docker, owner

        label = f"{docker.OWNER_LABEL}={owner.this_process()}"
        words = ("run", "-d", "--network=none", "--label", label, "--entrypoint=", IMAGE, *IDLE)
        return self._run(*words).strip()

    def true(self) -> float:
        return timed(lambda: self._run("exec", self._container, "true"))

    def program(self) -> float:
        return timed(lambda: self._run("exec", self._container, *PROGRAM))

    def line(self) -> float:
        return timed(lambda: self._run("exec", self._container, *LINE))

    def clean(self) -> float:
        return timed(lambda: self._run("rm", "-f", self._start()))

    def close(self) -> None:
        self._run("rm", "-f", self._container)


class SweRex:
    """SWE-ReX, by a Python that has it: see swe_rex_side.py."""

    HAS = ("true", "program", "line", "clean")

    def __init__(self, python: Path) -> None:
        self.version, site = _look_at(python)
        self.name = f"SWE-ReX {self.version}"
        self._image = f"trieline/benchmark-swe-rex:{uuid.uuid4().hex}"
        _make_image(site, self._image)
        program = Path(__file__).with_name("swe_rex_side.py")
        words = [str(python), str(program), self._image, json.dumps(PROGRAM)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: ended with status {self._process.wait(SWE_REX_SECONDS)}; see above")
        return line

    def times(self, what: str, count: int) -> list[float] | None:
        if what not in self.HAS:
            return None
        assert self._process.stdin is not None
        print(json.dumps({"what": what, "count": count}), file=self._process.stdin, flush=True)
        taken: list[float] = json.loads(self._answer())
        return taken

    def close(self) -> None:
        from trieline.envs.sandbox import docker

        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SWE_REX_SECONDS)
        docker.engine().remove_image(self._image)


def _look_at(python: Path) -> tuple[str, Path]:
    """The version of SWE-ReX that a Python has, and the folder with its packages."""
    ask = (
        "import json, sys, aiohttp, swerex, pathlib; print(json.dumps([swerex.__version__, "
        "str(pathlib.Path(swerex.__file__).parents[1]), sys.version_info[:2]]))"
    )
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        sys.exit(
            f"expected a Python with SWE-ReX at {python}, got: {done.stderr.strip()[-300:]}\n{GET_SWE_REX}"
        )
    version, site, of_python = json.loads(done.stdout)
    if list(of_python) != [3, 11]:
        sys.exit(f"expected a Python 3.11, as in {IMAGE}, which gets its packages, got {of_python}")
    return version, Path(site)


def _make_image(site: Path, image: str) -> None:
    """Our image with its server in it: a container without a network could install none."""
    from trieline.envs.sandbox import images

    script = (
        '#!/bin/sh\nPYTHONPATH=/opt/swe-rex/site exec python3 -m swerex.server --port $SWE_REX_PORT "$@"\n'
    )
    with tempfile.TemporaryDirectory() as folder:
        leave_out = shutil.ignore_patterns("pip", "pip-*", "setuptools*", "__pycache__")
        shutil.copytree(site, Path(folder, "site"), ignore=leave_out)
        command = Path(folder, "bin", "swerex-remote")
        command.parent.mkdir()
        command.write_text(script)
        command.chmod(0o755)
        images.make_of(Path(folder), image, workdir="/opt/swe-rex", base=IMAGE)


def in_turns(sides: Sequence[Side], counts: dict[str, int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """All times by what and side. The sides take turns: what else the machine does falls on all of them."""
    taken: dict[str, dict[str, list[float]]] = {what: {} for what in counts}
    for number in range(rounds):
        for what, count in counts.items():
            for side in sides if number % 2 == 0 else reversed(sides):
                if (times := side.times(what, count)) is not None:
                    taken[what].setdefault(side.name, []).extend(times)
    return taken
