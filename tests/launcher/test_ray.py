"""Programs with a place on a Ray cluster: a seat alone, and, where Ray is installed, two nodes and a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trieline.config import ConfigError, load_config
from trieline.launcher.ray_seat import Seat
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.supervisor import ProcessSpec, Program
from trieline.launcher.training_run import placed
from trieline.wire.config import LinksConfig

DEADLINE_S = 60.0
SETTINGS = [
    "run.actors=2",
    "learner.steps=2",
    "learner.trees_per_step=4",
    "learner.fill_batches=8.0",
    "learner.warm_start.target=0.02",
    "learner.warm_start.evaluate_every=10",
    "evaluation.episodes=4",
]


def seat(*arguments: str) -> Seat:
    return Seat(arguments, run_dir="/elsewhere/run", config=b"[run]\n")


def looks(place: Seat) -> tuple[int | None, bytes]:
    said, deadline = b"", time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        _, code, more = place.look()
        said += more
        if code is not None:
            return code, said
    return None, said


def test_a_seat_runs_a_command_with_a_folder_of_its_own_in_the_place_of_the_runs() -> None:
    assert looks(seat("--version")) == (0, b"trieline 0.1.0\n")
    code, said = looks(seat("status", "/elsewhere/run"))
    assert code == 0, said
    assert b"/trieline-seat-" in said
    assert b"/elsewhere" not in said


def test_how_it_ended_and_why_is_told() -> None:
    place = seat("track", "/elsewhere/run", "--to", "nowhere")
    code, said = looks(place)
    assert code == 2
    assert b"invalid choice" in said
    # Too late, and so without effect.
    place.signal(signal.SIGTERM)
    assert looks(place)[0] == 2


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'trieline\[ray\]'"), placed(on_ray=True):
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    two_nodes = Cluster(initialize_head=True, head_node_args=small)
    two_nodes.add_node(**small)
    yield two_nodes
    two_nodes.shutdown()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_placed_program_is_heard_and_ended(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trieline.launcher.ray_cluster import RayCluster

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    config = load_config(["tiny"], [f"run.folder={tmp_path}"])
    folder = RunFolder.create(config)

    def actor(*arguments: str) -> ProcessSpec:
        told = ("actor", "--config", str(folder.config), *arguments)
        return ProcessSpec(name="actor-0", arguments=told, log_file=folder.log("actor-0"))

    def placed_at(program: Program) -> int:
        deadline = time.monotonic() + DEADLINE_S
        while not program.pid:
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return program.pid

    with closing(RayCluster()) as connection:
        assert connection.links(LinksConfig()).trajectories != LinksConfig().trajectories
        assert connection.start(actor("--help"), (), config).wait(DEADLINE_S) == 0
        assert "usage: trieline actor" in folder.log("actor-0").read_text()
        asked = connection.start(actor(), (), config)
        pids = [placed_at(asked)]
        asked.terminate()
        # By the signal itself where it came before the program could hear it.
        assert asked.wait(DEADLINE_S) in {0, -signal.SIGTERM}
        killed = connection.start(actor(), (), config)
        pids.append(placed_at(killed))
        killed.kill()
        assert killed.wait(DEADLINE_S) == -signal.SIGKILL
        lost = connection.start(actor(), (), config)
        pids.append(placed_at(lost))
        # The seat is a process of Ray's; a node that is gone looks like this.
        seat = int(Path(f"/proc/{lost.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(seat, signal.SIGKILL)
        assert lost.wait(DEADLINE_S) == -signal.SIGKILL
        forgotten = connection.start(actor(), (), config)
        pids.append(placed_at(forgotten))
    deadline = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.end_to_end
@pytest.mark.timeout(1200)
def test_a_run_on_two_nodes_trains(cluster: Any, tmp_path: Path) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "trieline", "train", "--config", "tiny", "--on", "ray", *settings],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 2
    assert {path.stem for path in (run / "logs").iterdir()} >= {
        "actor-0",
        "actor-1",
        "policy-server",
        "learner",
    }
