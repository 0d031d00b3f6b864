import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trieline.common.errors import LockError
from trieline.common.owned_folder import OWNER_FILE, claim_folder, new_folder, sweep
from trieline.common.regular_file import open_regular

OWNER = """
import signal, sys
from pathlib import Path
from trieline.common.owned_folder import claim_folder
owned = claim_folder(Path(sys.argv[1]))
(owned.path / "weights").write_bytes(b"x" * 1000)
print("here", flush=True)
signal.pause()
"""


class Owner:
    """Another process with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "here\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_a_folder_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    owned = claim_folder(tmp_path / "a" / "folder")
    assert owned.path.stat().st_mode & 0o777 == 0o700
    (owned.path / "file").write_text("x")
    owned.close()
    assert not owned.path.exists()
    owned.close()


def test_the_folder_of_a_living_owner_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    folder = tmp_path / "mine-1"
    owner = Owner(folder)
    try:
        sweep(tmp_path, "mine-*")
        assert (folder / "weights").exists()
        with pytest.raises(LockError, match="another process has it"):
            claim_folder(folder)
    finally:
        owner.kill()
    sweep(tmp_path, "other-*")
    assert (folder / "weights").exists()
    sweep(tmp_path, "mine-*")
    assert not folder.exists()


def test_what_a_dead_owner_left_is_taken_over_empty(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    Owner(folder).kill()
    (folder / "inside").mkdir()
    owned = claim_folder(folder)
    assert [path.name for path in folder.iterdir()] == [OWNER_FILE]
    owned.close()


def test_new_folders_sweep_those_of_dead_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Owner(tmp_path / "trieline-test-dead").kill()
    first, second = new_folder("trieline-test-"), new_folder("trieline-test-")
    assert set(tmp_path.iterdir()) == {first.path, second.path}
    first.close()
    second.close()


def test_a_pipe_in_place_of_the_owner_file_hangs_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "mine-1"
    folder.mkdir()
    os.mkfifo(folder / OWNER_FILE)
    sweep(tmp_path, "mine-*")
    assert folder.exists()
    with pytest.raises(LockError, match="owner: "):
        claim_folder(folder)


@pytest.mark.parametrize("kind", ["link", "file", "linked owner"])
def test_what_is_no_folder_of_ours_is_left_alone(kind: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER_FILE).write_text("")
    folder = tmp_path / "mine-1"
    if kind == "link":
        folder.symlink_to(elsewhere)
    elif kind == "file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / OWNER_FILE).symlink_to(elsewhere / OWNER_FILE)
    sweep(tmp_path, "mine-*")
    assert folder.exists()
    assert (elsewhere / OWNER_FILE).exists()
    with pytest.raises(LockError, match="mine-1"):
        claim_folder(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder another user's")
def test_a_folder_of_another_user_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "mine-1"
    folder.mkdir()
    (folder / OWNER_FILE).write_text("")
    os.chown(folder, 65534, 65534)
    sweep(tmp_path, "mine-*")
    assert folder.exists()
    with pytest.raises(LockError, match=r"belongs to another user \(id 65534\)"):
        claim_folder(folder)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    os.close(open_regular(path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    for name in ("pipe", "link", "none"):
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name)
