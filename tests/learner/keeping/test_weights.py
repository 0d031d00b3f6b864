import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from tests.learner.live_parts import free_links
from trieline.common.file_lock import reading, try_lock
from trieline.common.owned_folder import claim_folder
from trieline.learner.keeping import weights
from trieline.learner.keeping.weights import SHARED_MEMORY, WeightsOutbox, outbox_folder
from trieline.wire.config import LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber


@pytest.fixture
def links() -> LinksConfig:
    return free_links()


@pytest.fixture
def publisher(links: LinksConfig) -> Iterator[WeightsPublisher]:
    with closing(WeightsPublisher(links)) as started:
        started.start()
        yield started


def test_versions_reach_a_server_and_old_files_go(
    links: LinksConfig, publisher: WeightsPublisher, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    outbox = WeightsOutbox(publisher, claim_folder(folder))
    with closing(WeightsSubscriber(links, server_id="s", fetch_folder=tmp_path / "fetched")) as server:
        server.start()
        for version in range(4):
            outbox.publish(version, {"w": torch.full((5,), float(version))})
            path = wait_for(server, version)
            assert load_file(path)["w"].tolist() == [version] * 5
            server.report_loaded(version, 0.0)
            outbox.wait_loaded(version, 10)
    assert [p.name for p in sorted(folder.glob("*.safetensors"))] == [
        "policy_00000001.safetensors",
        "policy_00000002.safetensors",
        "policy_00000003.safetensors",
    ]
    with pytest.raises(PeerTimeoutError, match="s serves 3"):
        outbox.wait_loaded(4, 0.05)
    outbox.close()
    outbox.close()
    assert not folder.exists()


def test_memory_of_a_version_that_nobody_reads_is_used_again(
    publisher: WeightsPublisher, tmp_path: Path
) -> None:
    outbox = WeightsOutbox(publisher, claim_folder(tmp_path / "weights"))
    paths = [
        outbox.publish(version, {"w": torch.full((9 - version,), float(version))}) for version in (0, 1, 2)
    ]
    first = paths[0].stat().st_ino
    wait_until_unheld(paths[0])  # the publisher serves the newest two
    fourth = outbox.publish(3, {"w": torch.full((6,), 3.0)})
    assert fourth.stat().st_ino == first
    assert load_file(fourth)["w"].tolist() == [3.0] * 6, "nothing of the longer file is left"
    assert not paths[0].exists()
    with pytest.raises(FileNotFoundError), reading(paths[0]):
        pass
    with paths[1].open("rb") as file, reading(paths[1]):
        held = paths[1].stat().st_ino
        fifth = outbox.publish(4, {"w": torch.full((5,), 4.0)})
        assert fifth.stat().st_ino != held
        assert load(file.read())["w"].tolist() == [1.0] * 8, "what is being read does not change"
    assert load_file(fifth)["w"].tolist() == [4.0] * 5
    outbox.close()


def wait_until_unheld(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(1000):
            if try_lock(file.fileno()):
                return
            time.sleep(0.01)
    message = f"{path} is still held"
    raise AssertionError(message)


def wait_for(server: WeightsSubscriber, version: int) -> Path:
    for _ in range(1000):
        if (found := server.poll()) is not None and found[0] == version:
            return found[1]
        time.sleep(0.01)
    message = f"version {version} did not come"
    raise AssertionError(message)


def test_weights_go_to_memory_where_there_is_room(tmp_path: Path) -> None:
    with closing(outbox_folder(tmp_path, 1000)) as folder:
        assert folder.path.parent in (SHARED_MEMORY, tmp_path)
        assert folder.path.stat().st_mode & 0o077 == 0, "nobody else may write there"
        with closing(outbox_folder(tmp_path / "other", 1000)) as other:
            assert other.path != folder.path
    assert not folder.path.exists()
    with closing(outbox_folder(tmp_path, 1 << 60)) as too_much:
        assert too_much.path == tmp_path / "weights"


def test_memory_of_a_learner_that_was_killed_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(weights, "SHARED_MEMORY", memory)
    left = memory / f"trieline-{os.getuid()}-0123456789abcdef"
    killed = subprocess.run(
        [sys.executable, "-c", LEARNER, str(left)], check=False, stdout=subprocess.PIPE, text=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert (left / "weights").exists()
    with closing(outbox_folder(tmp_path / "run", 1000)) as folder:
        assert list(memory.iterdir()) == [folder.path]


LEARNER = """
import os, signal, sys
from pathlib import Path
from trieline.common.owned_folder import claim_folder
(claim_folder(Path(sys.argv[1])).path / "weights").write_bytes(b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pipe_of_somebody_else_in_shared_memory_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(weights, "SHARED_MEMORY", memory)
    with closing(outbox_folder(tmp_path / "run", 1000)) as folder:
        name = folder.path.name
    for folder_name in (name, f"trieline-{os.getuid()}-other"):
        (memory / folder_name).mkdir()
        os.mkfifo(memory / folder_name / "owner")
    with closing(outbox_folder(tmp_path / "run", 1000)) as folder:
        assert folder.path == tmp_path / "run" / "weights"
