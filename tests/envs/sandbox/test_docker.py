"""What only containers have: flags of the engine, labels, orphans, an image."""

import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from tests.envs.sandbox.conftest import LIMITS, need
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import SandboxSpec, bundle, docker, owner
from trieline.envs.sandbox.docker import DockerSandbox, Engine
from trieline.envs.sandbox.exit_cleanup import close_all

pytestmark = pytest.mark.docker


@pytest.fixture
def engine() -> Engine:
    need("docker")
    return docker.engine()


@pytest.fixture
def sandbox(engine: Engine) -> Iterator[DockerSandbox]:
    with DockerSandbox(LIMITS) as started:
        yield started


def ours(engine: Engine, pid: int | None = None) -> list[dict[str, Any]]:
    """Containers of a process of this machine, this one by default."""
    containers = engine.api.containers(all=True, filters={"label": docker.OWNER_LABEL})
    # Those of images that stay have an owner of no name.
    owners = [(c, c["Labels"][docker.OWNER_LABEL].split("/")) for c in containers]
    return [c for c, owner in owners if owner[3:4] == [str(pid or os.getpid())]]


def test_the_container_is_hardened(engine: Engine, sandbox: DockerSandbox) -> None:
    container = engine.api.inspect_container(sandbox._name)
    host = container["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert not host["Binds"]
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["MemorySwap"]) == (LIMITS.memory_bytes, LIMITS.memory_bytes)
    assert (host["PidsLimit"], host["NanoCpus"]) == (LIMITS.pids + 1, LIMITS.cpus * 1e9)
    assert container["Config"]["User"] == "1000:1000"
    assert [mount.split()[0] for mount in host["Tmpfs"]] == ["/work"]


def test_the_memory_of_a_program_is_reported_when_it_runs_out(sandbox: DockerSandbox) -> None:
    result = run_python(sandbox, "x = b'x' * (1 << 30)")
    assert (result.exit_code, result.oom) == (137, True)
    assert not run_python(sandbox, "pass").oom


def test_a_program_that_takes_the_sandbox_down_gets_a_result(sandbox: DockerSandbox) -> None:
    # Small processes that no longer offer themselves first: the kernel may then pick the keeper.
    code = """
import os, time
open("/proc/self/oom_score_adj", "w").write("0")
while True:
    try:
        if os.fork() == 0:
            held = []
            while True: held.append(bytearray(65536)); time.sleep(0.001)
    except OSError: time.sleep(0.01)
"""
    result = run_python(sandbox, code, wall_seconds=4)
    assert result.oom
    sandbox.reset()
    assert said(sandbox, "print('next')") == "next"


def test_close_removes_the_container(engine: Engine) -> None:
    sandbox = DockerSandbox(LIMITS)
    before = len(ours(engine))
    sandbox.start()
    assert len(ours(engine)) == before + 1
    sandbox.close()
    assert len(ours(engine)) == before


@pytest.mark.parametrize("step", ["create_container", "attach_socket", "start"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_start_that_fails_half_way_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    before = len(ours(engine))
    real = getattr(engine.api, step)

    def cut_short(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise error

    monkeypatch.setattr(engine.api, step, cut_short)
    with pytest.raises((error, SandboxError)):
        DockerSandbox(LIMITS).start()
    monkeypatch.undo()
    assert len(ours(engine)) == before


def test_an_image_without_python_is_an_error_that_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(ours(engine))
    monkeypatch.setattr(bundle, "keeper_argv", lambda *_: ["no-such-python"])
    with pytest.raises(SandboxError, match=r"no-such-python|keeper ended"):
        DockerSandbox(LIMITS).start()
    assert len(ours(engine)) == before


def test_an_unknown_image_is_named(engine: Engine) -> None:
    with pytest.raises(SandboxError, match="trieline/absent:9"):
        DockerSandbox(LIMITS, SandboxSpec(image="trieline/absent:9")).start()
    assert "trieline/absent:9" in str(docker.reason_against("trieline/absent:9"))


@pytest.fixture
def open_root(engine: Engine) -> Iterator[DockerSandbox]:
    spec = SandboxSpec(image=docker.IMAGE, workdir="/work", writable_root=True, user=0)
    with DockerSandbox(LIMITS, spec) as started:
        yield started


def test_a_writable_root_is_thrown_away_by_a_reset(open_root: DockerSandbox) -> None:
    assert said(open_root, "open('/usr/x', 'w').write('1'); open('here', 'w').write('2')") == ""
    assert said(open_root, "import os; print(open('/usr/x').read(), os.environ['HOME'])") == "1 /tmp"
    assert open_root.read("/work/here") == b"2"
    open_root.reset()
    assert said(open_root, "import os; print(os.path.exists('/usr/x'), os.listdir('/work'))") == "False []"


def test_a_writable_root_is_committed_and_its_image_removed(engine: Engine, open_root: DockerSandbox) -> None:
    said(open_root, "open('/usr/x', 'w').write('1'); open('here', 'w').write('2')")
    snapshot = open_root.snapshot()
    said(open_root, "open('/usr/x', 'w').write('later')")
    copy = snapshot.start()
    assert snapshots(engine) == 1
    snapshot.close()
    try:
        assert said(copy, "print(open('/usr/x').read(), open('here').read())") == "1 2"
        assert said(open_root, "print(open('/usr/x').read())") == "later"
        copy.reset()  # to the clean state, not to that of the snapshot
        assert said(copy, "import os; print(os.path.exists('/usr/x'), os.listdir('.'))") == "False []"
    finally:
        copy.close()
    assert snapshots(engine) == 0


def snapshots(engine: Engine) -> int:
    return len(engine.api.images(docker.SNAPSHOTS))


def test_a_writable_root_that_grows_too_large_ends(open_root: DockerSandbox) -> None:
    code = """
import os, time
for n in range(4): open(f"/usr/{n}", "wb").write(os.urandom(8 << 20))
time.sleep(60)
"""
    result = run_python(open_root, code)
    assert (result.exit_code, result.over_disk, result.oom, result.timed_out) == (137, True, False, False)
    open_root.reset()
    assert said(open_root, "import os; print(os.path.exists('/usr/0'))") == "False"


def test_snapshots_of_a_process_that_is_gone_are_swept(engine: Engine, open_root: DockerSandbox) -> None:
    machine, boot, namespace, pid, _ = owner.this_process().split("/")
    gone = f"LABEL {docker.OWNER_LABEL}={machine}/{boot}/{namespace}/{pid}/1"
    engine.api.commit(open_root._name, docker.SNAPSHOTS, "gone", changes=[gone])
    snapshot = open_root.snapshot()
    assert snapshots(engine) == 2
    assert engine.sweep() == 1
    assert snapshots(engine) == 1
    snapshot.close()


def _own_one(pipe: Connection) -> None:
    sandbox = DockerSandbox(LIMITS)
    sandbox.start()
    pipe.send(sandbox._name)
    pipe.recv()


def _child(work: Callable[[Connection], None]) -> tuple[multiprocessing.Process, Connection, str]:
    """A process that does this work, and what it said first."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), daemon=True)
    process.start()
    assert here.poll(60)
    return process, here, here.recv()  # type: ignore[return-value]  # typeshed has SpawnProcess apart


def test_a_worker_that_ends_removes_its_containers(engine: Engine) -> None:
    process, pipe, _ = _child(_own_one)
    assert len(ours(engine, process.pid)) == 1
    pipe.send("end")
    process.join(30)
    assert process.exitcode == 0
    assert ours(engine, process.pid) == []


def _end_while_one_is_made(pipe: Connection) -> None:
    entered, errors = threading.Event(), list[str]()
    api = docker.engine().api
    create = api.create_container

    def slowly(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        time.sleep(1)
        return create(*args, **kwargs)

    def start() -> None:
        with pytest.raises(SandboxError) as raised:
            DockerSandbox(LIMITS).start()
        errors.append(str(raised.value))

    api.create_container = slowly
    starting = threading.Thread(target=start)
    starting.start()
    entered.wait()
    close_all()
    starting.join()
    pipe.send(errors[0])
    pipe.recv()


def test_what_is_being_made_when_its_process_ends_is_removed(engine: Engine) -> None:
    process, pipe, error = _child(_end_while_one_is_made)
    assert ours(engine, process.pid) == []
    assert "the process ends: too late to attach" in error
    pipe.send("end")
    process.join(30)
    assert process.exitcode == 0


def test_orphans_of_a_killed_process_end_and_are_swept(engine: Engine) -> None:
    process, _, name = _child(_own_one)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    engine.api.wait(name, timeout=30)  # the keeper noticed the hang-up
    assert engine.sweep() >= 1
    assert ours(engine, process.pid) == []


def test_containers_of_living_or_foreign_owners_are_not_swept(engine: Engine, sandbox: DockerSandbox) -> None:
    machine, boot, namespace, pid, _ = owner.this_process().split("/")
    labels = {
        f"elsewhere/{boot}/{namespace}/{pid}/1": False,
        f"{machine}/{boot}/1/{pid}/1": False,  # of another container, where the pids are others
        "not ours at all": False,
        owner.this_process(): False,
        f"{machine}/{boot}/{namespace}/{pid}/1": True,  # the pid was used again
        f"{machine}/{uuid.uuid4()}/{namespace}/{pid}/1": True,  # before the last boot
    }
    made = {}
    try:
        for label in labels:
            made[label] = engine.api.create_container(
                docker.IMAGE, "true", labels={docker.OWNER_LABEL: label}
            )["Id"]
        engine.sweep()
        left = {container["Id"] for container in engine.api.containers(all=True)}
        assert {label: container not in left for label, container in made.items()} == labels
        assert said(sandbox, "print('untouched')") == "untouched"
    finally:
        for container in made.values():
            engine.remove(container)


def test_a_fork_leaves_the_parents_container_alone(sandbox: DockerSandbox) -> None:
    child = os.fork()
    if child == 0:
        try:
            sandbox.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert said(sandbox, "print('still here')") == "still here"


def test_the_engine_is_asked_for_few_things_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    threads = [threading.Thread(target=engine.call, args=("wait", slow)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == docker.CONCURRENT_CALLS
