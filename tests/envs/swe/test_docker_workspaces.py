"""Tasks in containers: their images, an agent's episode, grading, and what fails in the middle of it."""

import json
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.envs.sandbox.conftest import need
from trieline.command_line import main
from trieline.envs import make_env
from trieline.envs.errors import DataError, TaskError
from trieline.envs.sandbox import SandboxLimits, docker, images, kept
from trieline.envs.sandbox.docker import DockerSandbox, Engine
from trieline.envs.swe.observations import SUBMIT
from trieline.envs.swe.replies import written
from trieline.envs.swe.repository_env import RepositoryEnv
from trieline.envs.swe.repository_task import RepositoryTask, row_of
from trieline.envs.swe.sample import sample_checkouts, sample_tasks
from trieline.envs.swe.task_images import build_images
from trieline.envs.swe.workspaces import Workspaces
from trieline.launcher import swe_bench
from trieline.launcher.swe_bench import SweBench, predictions_of

pytestmark = pytest.mark.docker

FIRST = "larder__larder-1"
DONE = written(f"echo {SUBMIT}")
ENV = "trieline/SWE-v0"
TEST_SECONDS = 5.0
"""For tests that take less than one; no other command has this limit."""


class Data:
    """The tasks of the sample with images of their own, and a copy of their checkouts."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.checkouts = folder / "rows.jsonl", folder / "checkouts"
        shutil.copytree(sample_checkouts(), self.checkouts)
        tag = uuid.uuid4().hex[:12]
        self.tasks = [
            replace(task, image=f"trieline/test-task:{task.instance_id}-{tag}") for task in sample_tasks()
        ]
        self.rows.write_text("".join(json.dumps(row_of(task)) + "\n" for task in self.tasks))

    def build(self, *more: str) -> int:
        return main(["images", "build", *self._tasks, "--checkouts", str(self.checkouts), *more])

    def remove(self, *more: str) -> int:
        return main(["images", "remove", *self._tasks, *more])

    @property
    def _tasks(self) -> tuple[str, str]:
        return "--tasks", str(self.rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    need("docker")
    made = Data(tmp_path_factory.mktemp("data"))
    assert made.build("--base", docker.IMAGE, "--offline") == 0
    yield made
    assert made.remove() == 0


@pytest.fixture
def env(data: Data) -> Iterator[RepositoryEnv]:
    made: Any = make_env(ENV, data=str(data.rows), backend="docker", edits=True).unwrapped
    made.reset(options={"task_id": FIRST})
    yield made
    made.close()


def containers() -> list[str]:
    """Of this process, on tasks of this test."""
    labels = {"label": docker.OWNER_LABEL}
    found = docker.engine().api.containers(all=True, filters=labels)
    mine = [c for c in found if c["Labels"][docker.OWNER_LABEL].split("/")[3] == str(os.getpid())]
    return [c["Id"] for c in mine if "test-task" in c["Image"]]


def say(env: RepositoryEnv, command: str) -> str:
    observation, reward, terminated, _, _ = env.step(written(command))
    assert (reward, terminated) == (0.0, False), observation
    return observation


# ---- images


def test_images_are_built_once_and_again_when_something_has_changed(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.build() == 0
    assert capsys.readouterr().out.endswith("\n4 unchanged\n")
    image = data.tasks[3].image
    assert image is not None
    before = docker.engine().api.inspect_image(image)["Id"]
    note = data.checkouts / data.tasks[3].instance_id / "note"
    note.write_text("new\n")
    assert data.build("--workers", "4") == 0
    assert capsys.readouterr().out.endswith("\n1 built, 3 unchanged\n")
    assert not docker.engine().has_image(before)
    note.unlink()
    assert data.build() == 0
    assert main(["images", "list"]) == 0
    assert f"{image}  built of a checkout\n" in capsys.readouterr().out
    assert containers() == []


def test_an_image_is_one_layer_and_all_of_it_belongs_to_root(data: Data) -> None:
    layers, base = (
        docker.engine().api.inspect_image(name)["RootFS"]["Layers"]
        for name in (data.tasks[0].image, images.tag("swe-base"))
    )
    assert (layers[:-1], len(layers)) == (base, len(base) + 1)
    sandbox = Workspaces(backend="docker", checkouts=None).open(data.tasks[0], SandboxLimits())
    try:
        find = (
            "find . ! -user 0 -o ! -group 0 | head; git status --short; touch .git/x larder/x && ls larder/x"
        )
        assert sandbox.exec(["sh", "-c", find]).stdout == b"larder/x\n"
        names = images.made()
        snapshot = sandbox.snapshot()
        assert images.made() == names
        snapshot.close()
    finally:
        sandbox.close()


def test_what_cannot_be_built_or_removed_is_said_and_the_others_are(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data.checkouts / FIRST, tmp_path / FIRST)
    tasks = [*data.tasks[:2], replace(data.tasks[2], image=docker.IMAGE)]
    done = {d.image: d for d in build_images(tasks, tmp_path, base=images.tag("swe-base"), workers=2)}
    assert done[data.tasks[0].image or ""].problem == ""
    assert "expected a folder larder__larder-2 in" in done[data.tasks[1].image or ""].problem
    shutil.copytree(data.checkouts / FIRST, tmp_path / data.tasks[2].instance_id)
    (found,) = build_images(tasks[2:], tmp_path, base=images.tag("swe-base"), workers=1)
    assert found.problem.endswith("got another image: it is left alone")
    (found,) = build_images(tasks[:1], tmp_path, base="trieline/absent:1", workers=1)
    assert found.problem == "expected the image trieline/absent:1, to build on, got none of that name"
    with pytest.raises(DataError, match="expected an image for each task, got trieline/python:1 for"):
        list(build_images([replace(t, image=docker.IMAGE) for t in tasks], tmp_path, base="x", workers=1))
    for arguments in (
        ["build", "--tasks", "x"],
        ["build", "--ids", "x"],
        ["remove"],
        ["remove", "--all", "--ids", "x"],
    ):
        assert main(["images", *arguments]) == 2
        assert "expected --" in capsys.readouterr().err
    assert data.remove("--ids", FIRST) == 0
    assert capsys.readouterr().out.endswith("\n1 removed\n")
    assert data.remove("--ids", FIRST) == 0
    assert capsys.readouterr().out.endswith("\n1 not there\n")
    assert data.build() == 0


# ---- an agent's episode


def test_an_agent_reads_edits_and_submits_and_forks_go_ways_of_their_own(env: RepositoryEnv) -> None:
    assert '"tbsp": 12' in say(env, "cat larder/units.py")
    fork = env.fork()
    edit = '```edit\nlarder/units.py\n<<<<<<< SEARCH\n"tbsp": 12\n=======\n"tbsp": 15\n>>>>>>> REPLACE\n```'
    assert env.step(edit)[1:3] == (0.0, False)
    assert "test_" in say(env, "python3 -m unittest discover -v -s tests -t . 2>&1")
    assert say(fork, "git status --short").endswith("<output></output>")
    assert fork.step(DONE)[1:3] == (0.0, True)
    _, reward, terminated, _, info = env.step(DONE)
    assert (reward, terminated, info["score"]["fail_to_pass"]) == (1.0, True, "1 of 1")
    fork.close()
    assert containers() == []


def test_neither_tests_nor_history_are_to_be_found_in_a_container(env: RepositoryEnv) -> None:
    past = "git log --all --oneline | wc -l; git reflog | wc -l; git fsck --lost-found --no-progress | wc -l"
    assert say(env, past).endswith("<output>\n1\n0\n0\n</output>")
    hidden = env.task.fail_to_pass[0].rpartition("::")[2]
    assert hidden.startswith("test_")
    look = f"grep -rla {hidden} / --exclude-dir=proc --exclude-dir=sys 2>/dev/null | wc -l"
    assert say(env, look).endswith("<output>\n0\n</output>")
    assert say(env, "find / -xdev -name '*.pack' | wc -l; id -u").endswith("<output>\n1\n0\n</output>")


def test_an_agent_that_fills_the_disk_has_lost_its_workspace(data: Data, env: RepositoryEnv) -> None:
    env._workspace._limits = replace(env._workspace._limits, disk_bytes=16 * 2**20)
    observation, reward, terminated, _, info = env.step(
        written("for n in 1 2 3 4; do head -c 8000000 /dev/urandom > $n; done; sleep 60")
    )
    assert "It wrote more than there is room for" in observation
    assert (reward, terminated, info["score"]["cause"]) == (0.0, True, "workspace_lost")
    assert containers() == []


# ---- grading, and what fails in the middle of it


def bench(data: Data, folder: Path, *more: str) -> dict[str, Any]:
    what = ["--data", str(data.rows), "--backend", "docker", "--output", str(folder)]
    assert main(["bench", "swe", *what, "--workers", "2", *more]) == 0
    report: dict[str, Any] = json.loads(next(folder.glob("*.trieline.json")).read_text())
    return report


def test_gold_resolves_all_and_an_image_that_is_missing_is_named(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = data.tasks[1].instance_id
    assert data.remove("--ids", absent) == 0
    report = bench(data, tmp_path, "--policy", "gold")
    assert report["resolved_ids"] == [t.instance_id for t in data.tasks if t.instance_id != absent]
    said = (
        f"- {absent}: {absent}: expected the image {data.tasks[1].image}, found none (trieline images build"
    )
    assert said in (tmp_path / "summary.md").read_text()
    env: Any = make_env(ENV, data=str(data.rows), backend="docker")
    env.reset(options={"task_id": absent})
    with pytest.raises(TaskError, match="found none"):
        env.step(written("ls"))
    env.close()
    assert data.build() == 0
    report = bench(data, tmp_path, "--policy", "gold", "--resume")
    assert report["resolved_instances"] == 4
    assert containers() == []


def test_tests_that_fill_the_disk_have_a_cause_of_their_own(data: Data, tmp_path: Path) -> None:
    patch = (
        "diff --git a/unittest.py b/unittest.py\nnew file mode 100644\n--- /dev/null\n+++ b/unittest.py\n"
        "@@ -0,0 +1,3 @@\n+import os, time\n"
        "+for n in range(4): open(f'/tmp/{n}', 'wb').write(os.urandom(8 << 20))\n+time.sleep(60)\n"
    )
    predictions = tmp_path / "p.json"
    record = {"instance_id": FIRST, "model_name_or_path": "m", "model_patch": patch}
    predictions.write_text(json.dumps([record]))
    workspaces = Workspaces(backend="docker", checkouts=None)
    small = SweBench(
        tasks=data.tasks,
        policy=predictions_of(f"replay:{predictions}", data.tasks, complain=print),
        model="m",
        folder=tmp_path / "run",
        run_id="small",
        open_workspace=lambda task, limits: workspaces.open(task, replace(limits, disk_bytes=16 * 2**20)),
    )
    assert small.run(resume=False)
    assert "| out_of_disk | 1 |" in (tmp_path / "run/summary.md").read_text()
    assert json.loads((tmp_path / "run/m.small.json").read_text())["error_ids"] == [FIRST]


class Relay:
    """A socket before the engine's that can stop answering and go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._flows = threading.Event()
        self._flows.set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            for ends in ((client, engine), (engine, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while part := source.recv(65536):
                self._flows.wait()
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_an_engine_that_stops_answering_breaks_what_runs_and_no_more(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(tmp_path / "socket")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{relay.path}")
    monkeypatch.setattr(docker, "ENGINE_SECONDS", 6)
    monkeypatch.setattr(kept, "KILL_SECONDS", 1.0)
    monkeypatch.setattr(swe_bench, "TRIES", 1)
    relayed = Engine()
    monkeypatch.setattr(docker, "_engine_of", lambda _pid: relayed)
    workspaces = Workspaces(backend="docker", checkouts=None)
    run = DockerSandbox.exec

    def exec_and_stop(self: DockerSandbox, argv: Any, **options: Any) -> Any:
        if options.get("wall_seconds") == TEST_SECONDS and self.image == data.tasks[1].image:
            relay.stop()
        return run(self, argv, **options)

    def open_workspace(task: RepositoryTask, limits: SandboxLimits) -> Any:
        relay.go_on()
        return workspaces.open(task, limits)

    monkeypatch.setattr(DockerSandbox, "exec", exec_and_stop)
    bench = SweBench(
        tasks=data.tasks,
        policy=predictions_of("gold", data.tasks, complain=print),
        model="gold",
        folder=tmp_path / "run",
        run_id="relayed",
        open_workspace=open_workspace,
        wall_seconds=TEST_SECONDS,
    )
    try:
        assert bench.run(resume=False)
        summary = (tmp_path / "run/summary.md").read_text()
        assert "| resolved | 3 |\n| broken | 1 |" in summary
        assert "for the keeper to answer 'exec'; ended it" in summary
        assert containers() == []
    finally:
        relay.go_on()
        relayed.close()
        relay.close()
